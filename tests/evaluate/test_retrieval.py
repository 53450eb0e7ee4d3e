import math
import random

import numpy as np
import pytest
import torch

from vmflearn.evaluate.retrieval import average_precision, precision_at, rank_images, revisited_scores, score_query


def test_average_precision_written_out():
    assert average_precision([0], 1) == 1
    assert average_precision([0, 1, 2], 3) == 1
    # one positive, behind one other image: precision rises from 0 before it to 1/2 after it
    assert average_precision([1], 1) == (0 + 1 / 2) / 2
    # positives at the first, third and sixth place of three
    want = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    assert average_precision([0, 2, 5], 3) == pytest.approx(want, abs=1e-15)
    # a fourth that was never found
    assert average_precision([0, 2, 5], 4) == pytest.approx(want * 3 / 4, abs=1e-15)
    assert average_precision([], 2) == 0


def test_precision_at_stops_at_the_last_positive():
    assert precision_at([0, 3], 1) == 1
    assert precision_at([1, 3], 1) == 0
    assert precision_at([0, 3], 5) == 2 / 4  # four images hold all positives: five are not asked for
    assert precision_at([0, 3, 9], 5) == 2 / 5


def test_a_query_with_junk_written_out():
    # ranking: junk 7, positive 2, other 0, junk 5, positive 1, other 3, ...
    ranking = np.array([7, 2, 0, 5, 1, 3, 4, 6])
    score, precisions = score_query(ranking, positives=[1, 2], ignored=[5, 7])
    # without junk: 2, 0, 1, ...: positives at places 0 and 2
    assert score == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2, abs=1e-15)
    assert precisions == {1: 1.0, 5: 2 / 3, 10: 2 / 3}


def by_walking(ranking, positives, junk):
    """The definition as one reads it: walk down the ranking, pass junk by, add up trapezoids."""
    area, seen, right, old_precision = 0.0, 0, 0, 1.0
    for image in ranking:
        if image in junk:
            continue
        seen += 1
        right += image in positives
        precision = right / seen
        if image in positives:
            area += (old_precision + precision) / 2 / len(positives)
        old_precision = precision
    return area


def test_difficulties_against_a_walk_down_the_ranking():
    generator = random.Random(0)
    rankings, judgements = [], []
    for _ in range(20):
        ranking = list(range(40))
        generator.shuffle(ranking)
        named = generator.sample(range(40), 18)
        rankings.append(ranking)
        judgements.append({"easy": named[:5], "hard": named[5:9], "junk": np.array(named[9:])})
    cases = {
        "easy": lambda j: ({*j["easy"]}, {*j["hard"], *j["junk"]}),
        "medium": lambda j: ({*j["easy"], *j["hard"]}, {*j["junk"]}),
        "hard": lambda j: ({*j["hard"]}, {*j["easy"], *j["junk"]}),
    }
    for difficulty, sets in cases.items():
        got = revisited_scores(np.array(rankings), judgements, difficulty)
        want = [by_walking(ranking, *sets(judgement)) for ranking, judgement in zip(rankings, judgements, strict=True)]
        np.testing.assert_allclose(got.average_precisions, want, rtol=1e-12)
        assert got.mean_average_precision == pytest.approx(np.mean(want), rel=1e-12)


def test_queries_without_positives_do_not_count():
    rankings = np.array([[0, 1, 2], [0, 1, 2]])
    judgements = [{"easy": [1], "hard": [], "junk": []}, {"easy": [], "hard": [0], "junk": [2]}]
    scores = revisited_scores(rankings, judgements, "easy")
    assert (scores.skipped, scores.mean_average_precision, scores.mean_precisions[1]) == (1, 0.25, 0.0)
    assert math.isnan(scores.precisions[5][1])
    with pytest.raises(ValueError, match="none of the 1 queries has a positive that is hard"):
        revisited_scores(rankings[:1], judgements[:1], "hard")


def test_images_are_ranked_by_the_angle_and_ties_by_number():
    queries = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    images = torch.tensor([[0.1, 1.0], [5.0, 0.0], [3.0, 3.0], [0.01, 0.0]])
    np.testing.assert_array_equal(rank_images(queries, images), [[1, 3, 2, 0], [1, 3, 2, 0]])


@pytest.mark.parametrize(
    ("judgement", "message"),
    [
        ({"easy": [0], "hard": []}, "judgement of query 0 lacks junk"),
        ({"easy": [3], "hard": [], "junk": []}, "names image 3; there are 3, from 0"),
        ({"easy": [1], "hard": [1], "junk": []}, "names image 1 more than once"),
    ],
)
def test_judgements_that_do_not_fit_are_named(judgement, message):
    with pytest.raises(ValueError, match=message):
        revisited_scores(np.array([[0, 1, 2]]), [judgement])


def test_other_bad_input_is_named():
    fine = {"easy": [0], "hard": [], "junk": []}
    with pytest.raises(ValueError, match="one of easy, medium, hard, got 'harder'"):
        revisited_scores(np.array([[0]]), [fine], "harder")
    with pytest.raises(ValueError, match="2 judgements need as many rankings"):
        revisited_scores(np.array([[0]]), [fine, fine])
    with pytest.raises(ValueError, match="ks must be 1 or more"):
        revisited_scores(np.array([[0]]), [fine], ks=[0])
    with pytest.raises(ValueError, match="equally wide, got 2 and 3"):
        rank_images(torch.ones(1, 2), torch.ones(1, 3))
    with pytest.raises(ValueError, match="features holds values that are not finite"):
        rank_images(torch.ones(1, 2), torch.full((1, 2), torch.nan))
