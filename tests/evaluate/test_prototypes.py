"""Assignments, duplicates, the void set and accuracy by precision, each against a plain loop or a planted answer."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vmflearn.evaluate.commands import load_command
from vmflearn.evaluate.knn import knn_votes
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.prototypes import (
    Assignment,
    assign,
    describe_largest,
    largest_set,
    precision_percentiles,
    utilization,
)
from vmflearn.monitor.prototype_use import UniquePrototypes
from vmflearn.sphere import log_normalizer
from vmflearn.ssl import DINOHead


def head(normalization, *, seed=0, out_dim=40, spread=0.5):
    torch.manual_seed(seed)
    made = DINOHead(6, out_dim, normalization, hidden_dim=12, bottleneck_dim=8)
    for layer in made.mlp:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5)
    with torch.no_grad():
        made.prototypes.weight_g.mul_(torch.exp(spread * torch.randn(out_dim, 1)))
    return made


@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
@pytest.mark.parametrize("chunk_size", [7, 512])
def test_an_image_belongs_to_its_greatest_logit(normalization, chunk_size):
    """Written out in float64 from the weights as they are stored."""
    made, x, tau = head(normalization), torch.randn(50, 6), 0.2
    found = assign(made, x.numpy(), tau, chunk_size=chunk_size)
    y = made.bottleneck(x).detach().double()
    v, g = made.prototypes.weight_v.detach().double(), made.prototypes.weight_g.detach().double()
    w = v / v.norm(dim=1, keepdim=True) * (1 if normalization == "l2" else g)
    kappa = w.norm(dim=1) / tau
    logits = y @ w.T / tau
    if normalization == "vmf":
        logits += log_normalizer(kappa, 8, method="mpmath")
    assert found.component.tolist() == logits.argmax(dim=1).tolist()
    torch.testing.assert_close(found.precision.double(), kappa[found.component], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.mean, y.mean(dim=0), rtol=1e-5, atol=1e-6)
    assert len(set(found.component.tolist())) > 5


def test_the_normaliser_takes_part():
    """A component twice as long wins all images in its half without it, and not those far from it with it."""
    plain, normed = (head(n, seed=3, spread=1.0) for n in ("none", "vmf"))
    x = torch.randn(200, 6)
    a, b = (assign(each, x, 0.05).component for each in (plain, normed))
    assert (a != b).float().mean() > 0.2


def test_batch_statistics_are_not_used_nor_changed():
    made = DINOHead(6, 10, hidden_dim=12, bottleneck_dim=8, batch_norm=True).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assign(made, torch.randn(9, 6), 0.1)
    assert made.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_duplicates_by_threshold():
    """Ten directions: five copies of one, a pair at a cosine of 0.8, three on their own."""
    e = torch.eye(8)
    pair = torch.stack([e[1], 0.8 * e[1] + 0.6 * e[2]])
    directions = torch.cat([e[:1].repeat(5, 1), pair, e[3:6]])
    found = utilization(directions, (0.5, 0.75, 0.9))
    assert {t: (u.count, u.largest) for t, u in found.items()} == {0.5: (5, 5), 0.75: (5, 5), 0.9: (6, 5)}
    assert largest_set(found[0.9]).tolist() == [True] * 5 + [False] * 5


@pytest.mark.parametrize("belongs", [0, 6])
def test_the_void_set_is_opposite_to_the_data(belongs):
    """Five prototypes at -e_0, data around e_0; an image may be put into the set all the same."""
    e = torch.eye(4)
    directions = torch.cat([e, -e[:1].repeat(5, 1)])
    component = torch.tensor([0, 1, 1, belongs])
    (unique,) = utilization(directions, [0.9]).values()
    found = describe_largest(directions, unique, Assignment(component, torch.ones(4), 0.3 * e[0].double()))
    inside = belongs == 6
    assert (found.size, found.images, found.void) == (5, int(inside), 4 if inside else 5)
    assert found.cosine == pytest.approx(-1)


def test_a_large_set_beside_the_data_is_not_void():
    e = torch.eye(4)
    directions = torch.cat([e[1:2].repeat(5, 1), -e[:1]])
    unique = UniquePrototypes(2, 5, torch.tensor([0, 0, 0, 0, 0, 5]))
    found = describe_largest(directions, unique, Assignment(torch.tensor([0, 4]), torch.ones(2), e[0]))
    assert (found.size, found.images, found.void) == (5, 2, 1)
    assert found.cosine == pytest.approx(0)


def test_ranges_of_precision_by_a_loop():
    generator = np.random.default_rng(0)
    precision = generator.choice(generator.uniform(5, 50, 23), 400).astype(np.float32)  # few components, many images
    right = generator.random(400) < 0.6
    edges = (0, 10, 35, 80, 100)
    found = precision_percentiles(precision, right, edges)
    ordered = sorted(precision.tolist())
    limits = [-np.inf, *(ordered[int(q / 100 * 399)] for q in edges[1:-1]), np.inf]
    for each, low, high in zip(found, limits[:-1], limits[1:], strict=True):
        inside = [i for i in range(400) if low < precision[i] <= high]
        assert each.images == len(inside)
        assert each.top1 == pytest.approx(sum(right[i] for i in inside) / len(inside))
        assert each.precisions == (min(precision[i] for i in inside), max(precision[i] for i in inside))
        assert each.interval[0] <= each.top1 <= each.interval[1]
    assert sum(each.images for each in found) == 400
    assert [(each.low, each.high) for each in found] == [(0, 10), (10, 35), (35, 80), (80, 100)]


def test_ranges_of_distinct_precisions_are_equal_and_ties_are_not_torn():
    found = precision_percentiles(np.arange(1000.0), np.arange(1000) >= 500)
    assert [each.images for each in found] == [100] * 10
    assert [each.top1 for each in found] == [0] * 5 + [1] * 5
    (one,) = precision_percentiles(np.full(20, 14.3), np.ones(20, dtype=bool))
    assert (one.images, one.top1) == (20, 1)


@pytest.mark.parametrize(
    ("precision", "right", "edges", "message"),
    [
        (np.ones(3), np.ones(2, dtype=bool), (0, 100), r"got \(3,\) and \(2,\)"),
        (np.ones(0), np.ones(0, dtype=bool), (0, 100), "n at least 1"),
        (np.ones(3), np.ones(3, dtype=bool), (0, 50), "edges must rise from 0 to 100"),
        (np.ones(3), np.ones(3, dtype=bool), (0, 50, 50, 100), "edges must rise"),
    ],
)
def test_wrong_arguments(precision, right, edges, message):
    with pytest.raises(ValueError, match=message):
        precision_percentiles(precision, right, edges)


def test_no_features():
    with pytest.raises(ValueError, match="features must be of one image at least"):
        assign(head("vmf"), torch.zeros(0, 6), 0.1)


class Means(nn.Module):
    """A backbone of the colours' means and squares."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        means = images.mean(dim=(2, 3))
        return self.scale * torch.cat([means, means**2], dim=1)


@pytest.fixture
def data(tmp_path):
    """Three classes of plain colours, one image of which cannot be read."""
    generator = np.random.default_rng(1)
    for part, n in (("train", 20), ("val", 8)):
        for k, name in enumerate(("blue", "green", "red")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.zeros((8, 8, 3), dtype=np.uint8)
                pixels[..., 2 - k] = generator.integers(100, 250)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "val" / "red" / "0.png").write_bytes(b"no image")
    return tmp_path


def run(model, *words):
    command = load_command("prototypes")
    parser = argparse.ArgumentParser()
    for name in ("--data", "--device", "--precision", "--cache"):
        parser.add_argument(name)
    parser.set_defaults(which="teacher", device="cpu", precision="float32", batch_size=16, workers=0)
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]), model)


def model(normalization="vmf", **options):
    return Model(Means().eval(), head(normalization, **options), "0" * 64, "colours", size=8, resized=8)


def test_the_command_counts_without_data():
    report = run(model(), "--thresholds", 0.3, 0.9)
    assert not load_command("prototypes").NEEDS_DATA
    found = utilization(model().head.prototypes.directions, (0.3, 0.9))
    expected = [{"threshold": t, "unique": u.count, "largest": u.largest} for t, u in found.items()]
    assert report.rows == expected
    assert 1 < expected[0]["unique"] < expected[1]["unique"]
    with pytest.raises(ValueError, match="colours has no head"):
        run(Model(Means(), None, "", "colours"))


def test_the_command_with_data(data, tmp_path):
    report = run(model(), "--data", data, "--k", 3)
    counts, ranges = report.rows[:7], report.rows[7:]
    assert all({"void", "cosine_of_largest", "images_of_largest"} <= row.keys() for row in counts)
    assert sum(row["images"] for row in ranges) == 23
    right = report.details["right"]
    assert sum(row["images"] * row["top1"] for row in ranges) == pytest.approx(sum(right))
    assert sum(right) == 23  # colours are easy
    assert [row["kappa_most"] for row in ranges] == sorted(row["kappa_most"] for row in ranges)
    assert report.settings["temperature"] == 0.07
    assert any("1 of 24 images cannot be read" in note for note in report.notes)
    report.write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == report.rows
    assert "percentiles" in report.table()


def test_the_command_longhand(tmp_path):
    """Colours without regard to the class, so that not every number of neighbours finds the same."""
    generator = np.random.default_rng(3)
    for part, n in (("train", 20), ("val", 12)):
        for name in ("blue", "green", "red"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.full((8, 8, 3), generator.integers(0, 250, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i:02}.png")

    def features(part):
        colours = [np.array(Image.open(path))[0, 0] for path in sorted((tmp_path / part).glob("*/*.png"))]
        x = (np.array(colours) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        return torch.tensor(np.concatenate([x, x**2], axis=1)).float()

    made, x, y = model(), features("train"), features("val")
    rows, columns = torch.arange(60) // 20, torch.arange(36) // 12
    for k in (1, 30):
        report = run(made, "--data", tmp_path, "--k", k, "--thresholds", 0.2, "--temperature", 0.3)
        (votes,) = knn_votes(x, rows, y, columns, ks=[k])
        assert report.details["right"] == votes.hits().tolist()
        assigned, judged = assign(made.head, x, 0.3), assign(made.head, y, 0.3)
        assert report.details["component_of_each_test_image"] == judged.component.tolist()
        directions = made.head.prototypes.directions.detach()
        members = largest_set(utilization(directions, [0.2])[0.2])
        inside = sum(bool(members[c]) for c in assigned.component.tolist())
        assert report.rows[0]["images_of_largest"] == inside > 0
        cosine = torch.cosine_similarity(directions[members].mean(dim=0), assigned.mean.float(), dim=0)
        assert report.rows[0]["cosine_of_largest"] == pytest.approx(float(cosine), abs=1e-5)
        want = precision_percentiles(judged.precision, votes.hits())
        assert [row["top1"] for row in report.rows[1:]] == [each.top1 for each in want]
        assert [row["kappa_most"] for row in report.rows[1:]] == pytest.approx([each.precisions[1] for each in want])
    assert sum(votes.hits().tolist()) != sum(knn_votes(x, rows, y, columns, ks=[1])[0].hits().tolist())


def test_components_of_one_precision_are_said(data):
    report = run(model("l2"), "--data", data, "--k", 3)
    assert len(report.rows) == 8
    assert "because they are normalised" in report.notes[-1]


def test_another_score_than_the_files(data):
    """Published files do not tell that they are of DINO-vMF."""
    told = run(model("vmf"), "--data", data, "--k", 3)
    chosen = run(model("none"), "--data", data, "--k", 3, "--normalization", "vmf")
    other = run(model("none"), "--data", data, "--k", 3)
    assert chosen.rows == told.rows != other.rows
    assert chosen.settings["normalization"] == "vmf"
