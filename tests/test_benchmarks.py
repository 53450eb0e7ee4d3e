"""The benchmarks run: the accuracy of a few points, and the comparison with peers at tiny sizes."""

import math
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """Import the benchmark scripts as they import each other, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert {"accuracy", "input_pipeline", "sphere", "truth", "measure"} <= names
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def test_what_has_results_is_in_the_table_and_run_by_make_bench():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    bench = (FOLDER.parent / "Makefile").read_text(encoding="utf-8").partition("\nbench-sphere:")[2]
    with_results = {path.stem for path in (FOLDER / "results").glob("*.md")} & {
        path.stem for path in FOLDER.glob("*.py")
    }
    assert len(with_results) > 10
    for name in with_results:
        assert f"| `python benchmarks/{name}.py" in table
        assert f"benchmarks/{name}.py" in bench or name == "earlier", name  # it needs an earlier commit


def test_accuracy_meets_its_targets_at_a_few_points(scripts, tmp_path):
    pytest.importorskip("flint", reason="the references need python-flint")
    import accuracy

    assert accuracy.main(["--points", "40", "--out", str(tmp_path)]) == 0
    report = (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert "All targets are met." in report
    assert "missed at" not in report
    assert "Command: `python benchmarks/accuracy.py --points 40`." in report
    assert str(tmp_path) not in report
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


def test_accuracy_fails_where_a_target_is_missed(scripts, tmp_path, monkeypatch):
    pytest.importorskip("flint", reason="the references need python-flint")
    import accuracy

    exact = accuracy.QUANTITIES["A"]
    monkeypatch.setitem(accuracy.QUANTITIES, "A", (lambda k, dim: exact[0](k, dim) * (1 + 3e-6), exact[1]))
    assert accuracy.main(["--points", "20", "--out", str(tmp_path)]) == 1
    assert "missed at" in (tmp_path / "accuracy.md").read_text(encoding="utf-8")


def test_truth_is_that_of_the_closed_form_at_dim_3(scripts):
    pytest.importorskip("flint", reason="the references need python-flint")
    import mpmath
    import truth

    for kappa in (1e-9, 0.3, 25.0, 1e6, 1e12):
        true = truth.truth(3, kappa)
        with mpmath.workdps(100):
            k = mpmath.mpf(kappa)
            length = mpmath.coth(k) - 1 / k
            log_h = k + mpmath.log(-mpmath.expm1(-2 * k) / (2 * k))
            expected = (log_h, k - log_h, length, 1 - length, 1 / k**2 - mpmath.csch(k) ** 2)
        for ball, wanted in zip(true, expected, strict=True):
            assert truth.disagreement(ball, wanted) < 1e-40


def test_an_error_is_never_hidden_by_zero_or_nan(scripts):
    pytest.importorskip("flint", reason="the references need python-flint")
    import truth

    zero = truth.truth(5, 0.0)
    assert truth.relative_error(0.0, zero.log_h) == 0
    assert truth.relative_error(1e-300, zero.log_h) == math.inf
    assert truth.relative_error(math.nan, zero.complement) == math.inf
    assert truth.relative_error(1 + 2**-30, zero.complement) == pytest.approx(2**-30, rel=1e-12)


def test_points_are_reproducible_and_lie_where_they_are_said_to(scripts):
    import points
    import torch

    for dtype in (torch.float64, torch.float32):
        drawn = points.draw_points(500, dtype)
        assert drawn == points.draw_points(500, dtype)
        assert len(drawn) == 500
        assert len(set(drawn)) > 490
        assert all(2 <= dim <= 65536 and 0 <= kappa <= 1.0001e12 for dim, kappa in drawn)
        assert all(float(torch.tensor(kappa, dtype=dtype)) == kappa for _, kappa in drawn)
        assert any(kappa == 0 for _, kappa in drawn)
    assert [points.group_of(dim) for dim in (2, 3, 4, 60, 61, 65536)] == [
        "2",
        "3",
        "4-8",
        "31-60",
        "61-512",
        "8193-65536",
    ]


def test_ratios_point_the_way_of_their_target(scripts):
    import measure

    def clock(*seconds):
        values = iter(seconds)
        return lambda: next(values)

    rival = measure.Peer("rival", clock(1.0, 4.0, 6.0, 9.0), 3.0)
    floor = measure.Peer("floor", clock(99.0, 1.0, 1.0, 1.0), 1.5, is_floor=True)
    faster, costlier = measure.compare("ours", clock(1.0, 2.0, 2.0, 2.0), [rival, floor], rounds=3)
    assert (faster.ours, faster.theirs, faster.ratio, faster.met) == (2.0, 6.0, 3.0, True)
    assert (costlier.theirs, costlier.ratio, costlier.met) == (1.0, 2.0, False)
    assert costlier.cells()[-3:] == ["2.00 (ours / floor)", "≤ 1.5", "**missed**"]


def test_an_iteration_is_the_difference_of_two_fits(scripts):
    import measure

    ticks = iter([0.0, 5.0, 14.0])
    assert measure.per_step(lambda n: n, few=1, many=3, clock=lambda: next(ticks))() == 2.0
    with pytest.raises(RuntimeError, match="the longer fit stopped after 2 iterations"):
        measure.per_step(lambda n: min(n, 2), few=2, many=10)()


def test_sphere_runs_at_tiny_sizes(scripts, tmp_path):
    import sphere

    sphere.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "sphere.md").read_text(encoding="utf-8")
    for name in ("## Normaliser", "## Sampling", "## Mixture", "## Fit", "scipy ive", "its two matrix products"):
        assert name in report
    assert str(tmp_path) not in report
    assert (tmp_path / "sphere.png").stat().st_size > 1000


def test_distillation_runs_at_tiny_sizes(scripts, tmp_path):
    import distillation

    distillation.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "distillation.md").read_text(encoding="utf-8")
    for name in ("## Last layer and loss", "## Head, loss and centring", "## Memory", "## Cost of the normaliser"):
        assert name in report
    assert str(tmp_path) not in report


def test_views_runs_at_tiny_sizes(scripts, tmp_path):
    import views

    views.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "views.md").read_text(encoding="utf-8")
    for name in ("## Speed", "## Fidelity", "| multi_crop |", "MultiCropTransform, Pillow images", "kornia"):
        assert name in report
    assert str(tmp_path) not in report


def test_crops_are_judged_by_those_of_pillow(scripts):
    import torch
    import views

    images = views.photographs(3, 40)
    boxes = torch.tensor([[3, 5, 30, 21], [0, 0, 40, 40], [10, 2, 12, 12]])
    made = torch.stack([views.pillow_crop(image, box.tolist(), 16) for image, box in zip(images, boxes, strict=True)])
    assert views.crop_errors(images, made, boxes) == ["0.00", "0"]
    unsmoothed = torch.nn.functional.interpolate(images[1:2].float(), 16, mode="bicubic")
    assert float(views.crop_errors(images[1:2], unsmoothed, boxes[1:2])[0]) > 1


def test_distillation_does_not_time_ways_that_differ(scripts, monkeypatch):
    import distillation
    import distillation_cases

    monkeypatch.setattr(distillation_cases, "pairwise_loss", lambda s, q: -(q[0] * s[1].log_softmax(-1)).sum(-1).mean())
    with pytest.raises(AssertionError, match="pair by pair differs by"):
        distillation_cases.measure_last_layer(distillation.QUICK)


def test_pretrain_runs_at_tiny_sizes(scripts, tmp_path):
    import pretrain

    pretrain.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "pretrain.md").read_text(encoding="utf-8")
    for name in (
        "## One step, and what each saving gives",
        "DINO's step, longhand",
        "## In bfloat16",
        "## Stochastic depth",
        "## After the backward pass",
        "## Two processes",
        "## Memory of a step",
        "ours, four parts",
        "## A checkpoint",
        "## Tried, and not kept",
        "## Projection to many GPUs (arithmetic, not a measurement)",
        "## Not measured yet",
    ):
        assert name in report
    assert str(tmp_path) not in report


def test_pretrain_does_not_time_steps_that_differ(scripts, monkeypatch):
    import dataclasses

    import pretrain
    import pretrain_cases

    other = dataclasses.replace(pretrain_cases.SETTINGS, teacher_temp=0.05)
    ours = pretrain_cases.training_step
    monkeypatch.setattr(pretrain_cases, "training_step", lambda *args: ours(*args[:-1], other))
    with pytest.raises(AssertionError, match="longhand: the loss differs by"):
        pretrain_cases.measure_steps(pretrain.QUICK)


def test_the_input_pipeline_is_measured(scripts, tmp_path):
    import input_pipeline

    input_pipeline.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "input_pipeline.md").read_text(encoding="utf-8")
    assert "500 x 375 pixels" in report
    assert report.count("recipe, image by image") == 3
    assert "Command: `python benchmarks/input_pipeline.py --quick`." in report
    assert str(tmp_path) not in report


@pytest.mark.slow
def test_patches_runs_at_tiny_sizes(scripts, tmp_path):
    import patches

    patches.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "patches.md").read_text(encoding="utf-8")
    assert "| iBOT-vMF step | " in report
    assert "| MSN step, bfloat16 | " in report
    assert "missed" not in report


def test_patches_does_not_time_steps_that_differ(scripts, monkeypatch):
    import patches
    import patches_cases

    monkeypatch.setattr(patches_cases.Longhand, "patch_temp", 0.06)
    with pytest.raises(AssertionError, match="differ"):
        patches_cases.assert_equal_steps(patches.QUICK)


def test_a_trace_of_a_kill_is_seen_and_an_evaluation_is_none(scripts):
    import methods_on_photos

    whole = [{"step": i, "loss": 1 / i} for i in range(1, 5)]
    again = [*whole[:1], whole[1] | {"knn_top1": 0.5, "unique_prototypes": 3}]
    assert methods_on_photos.same(whole, again)
    assert not methods_on_photos.same(whole, [])
    assert not methods_on_photos.same(whole, whole[1:])
    assert not methods_on_photos.same(whole, [*whole[:1], {"step": 2, "loss": 0.5 + 2**-53}])


def test_a_method_that_learns_nothing_or_bears_a_trace_fails(scripts, tmp_path, monkeypatch):
    import methods_on_photos

    learned, unharmed = {"DINO": (0.61, 0.7, 0.67), "iBOT": (0.7, 0.72, 0.79), "MSN": (0.8, 0.6, 0.8)}, [True]

    def measure(name, seed, extra, with_kill):
        line = {"step": 9, "knn_top1": learned[name][seed], "linear_top1": 0.5, "unique_prototypes": 4}
        return methods_on_photos.Run(seed, [line], 1.0, 0.6, unharmed[0] if with_kill else None)

    monkeypatch.setattr(methods_on_photos, "measure", measure)
    for method, status in (("MSN", 1), ("iBOT", 0)):
        assert methods_on_photos.main(["--seeds", "3", "--methods", method, "--out", str(tmp_path)]) == status
        assert f"| {method} | 9 |" in (tmp_path / "methods_on_photos.md").read_text(encoding="utf-8")
    # Differences of 9, 2 and 12 points: mean 7.67, standard error 2.96, 4.303 of them either way.
    assert methods_on_photos.main(["--seeds", "3", "--methods", "DINO", "iBOT", "--out", str(tmp_path)]) == 0
    report = (tmp_path / "methods_on_photos.md").read_text(encoding="utf-8")
    assert "| iBOT - DINO | +7.7 | -5.1 to +20.4 | not resolved |" in report
    assert "| 0.660 ± 0.046 |" in report
    unharmed[0] = False
    assert methods_on_photos.main(["--seeds", "3", "--methods", "iBOT", "--out", str(tmp_path)]) == 1


def test_an_earlier_step_is_found_equal_and_another_one_is_not(scripts, tmp_path, monkeypatch):
    import earlier

    if earlier.subprocess.run(["git", "cat-file", "-e", f"{earlier.BEFORE}^{{commit}}"], cwd=earlier.ROOT).returncode:
        pytest.skip("the history is not whole")
    assert earlier.main(["--quick", "--out", str(tmp_path)]) == 0
    report = (tmp_path / "earlier.md").read_text(encoding="utf-8")
    assert "equal to the last bit" in report
    assert "missed" not in report
    here = "__import__('os').path.exists('benchmarks/earlier.py')"
    worker = earlier.WORKER.replace("float(loss).hex()", f"(float(loss) + {here}).hex()")
    monkeypatch.setattr(earlier, "WORKER", worker)  # one more in this tree, which has this benchmark
    assert earlier.main(["--quick", "--out", str(tmp_path)]) == 1
    assert "**not equal**" in (tmp_path / "earlier.md").read_text(encoding="utf-8")


def test_an_unknown_commit_is_one_line(scripts, tmp_path):
    import earlier

    with pytest.raises(SystemExit, match="cannot read commit 0000000"):
        earlier.main(["--before", "0000000", "--out", str(tmp_path)])


def test_evaluation_runs_and_judges_no_tiny_size(scripts, tmp_path, capsys):
    import evaluation

    assert evaluation.main(["--quick", "--out", str(tmp_path)]) == 0
    report = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    for start in ("| kNN, 300 x 50 x 16", "| linear step of ten", "| features of 4 JPEG", "| path, 3 penalties"):
        assert start in report
    assert "**missed**" not in report
    assert evaluation.main(["--large", "--quick"]) == 0
    assert "kNN of 200 x 3,000 x 64" in capsys.readouterr().out


def test_converge_runs_at_tiny_sizes(scripts, tmp_path):
    import converge

    converge.main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "converge.md").read_text(encoding="utf-8")
    assert "Command: `python benchmarks/converge.py --quick`." in report
    assert len(re.findall(r"^\| 0.6 \|.* \| (?:strides|steps alone) \| \d+ \|", report, flags=re.M)) == 4
    assert re.search(r"^\| \d+ \| .* ms \| .* m?s \| \d", report, flags=re.M)
