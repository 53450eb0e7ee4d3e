"""The tools that make what the chapters read, on cases small enough to check by hand."""

import base64
import configparser
import hashlib
import io
import json
import re
import tarfile

import matplotlib.pyplot as plt
import numpy as np
import precision
import pytest
import run_on
import ship_models
import torch
import vendor
from build_site import assemble
from chapters import BOOK, SRC, chapter_names
from cover import draw_logits, draw_run
from ladder import summarise

from vmflearn.ssl import Prototypes
from vmflearn.train.checkpoints.checkpoint import save_checkpoint


def test_the_vote_of_the_neighbours_is_as_written_out():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = rng.integers(0, 4, 60)
    for leave_out in (False, True):
        expected = []
        for i in range(60):
            others = [j for j in range(60) if not (leave_out and j == i)]
            nearest = sorted(others, key=lambda j: -(rows[i] @ rows[j]))[:20]
            votes = [sum(np.exp(rows[i] @ rows[j] / 0.07) for j in nearest if labels[j] == c) for c in range(4)]
            expected.append(np.argmax(votes) == labels[i])
        x, y = torch.tensor(rows), torch.tensor(labels)
        assert precision.correct(x, y, x, y, leave_out=leave_out).tolist() == expected


def test_no_image_is_its_own_neighbour():
    """On rows with random labels a vote that includes the row itself, in a lonely place, is always right."""
    x = torch.eye(40)
    y = torch.arange(40) % 2
    assert precision.correct(x, y, x, y, leave_out=False).all()
    right = precision.correct(x, y, x, y, leave_out=True).float().mean()
    assert right < 0.8


def test_the_stored_correlations_come_out_again():
    stored = json.loads((BOOK / "results" / "precision.json").read_text())
    (run,) = [r for r in stored if (r["recipe"], r["cell"]) == ("photos_book", "vmf+probability")]
    found = precision.correlations(BOOK / "models" / "dino_vmf.pt")  # float16, the stored one was float32
    assert found == {split: pytest.approx(run[split], abs=0.005) for split in ("train", "test")}


def test_used_and_unique_prototypes_are_counted():
    prototypes = Prototypes(2, 4, "l2")
    with torch.no_grad():
        prototypes.weight_v.copy_(torch.tensor([[1.0, 0.0], [1.0, 1e-4], [0.0, 1.0], [-1.0, 0.0]]))
    y = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.6], [0.6, 0.8]]])
    assert run_on.counts(prototypes, y) == {"unique": 3, "largest": 2, "used": 3}


def test_only_the_last_layer_learns_and_its_teacher_follows_slowly(monkeypatch):
    y = torch.nn.functional.normalize(torch.randn(4, 30, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    before = y.clone()
    monkeypatch.setitem(run_on.SETTINGS, "prototypes", 16)
    monkeypatch.setitem(run_on.SETTINGS, "every", 2)
    moved = {}
    for momentum in (1.0, 0.95, 0.0):
        monkeypatch.setitem(run_on.SETTINGS, "momentum", momentum)
        history, teacher = run_on.run_on(y, "vmf", "probability", 4)
        assert [line["step"] for line in history] == [0, 2, 4]
        torch.manual_seed(run_on.SETTINGS["seed"])
        start = Prototypes(8, 16, "vmf")
        moved[momentum] = (teacher.directions - start.directions).detach().norm().item()
    assert torch.equal(y, before)
    assert moved[1.0] == 0
    assert 0 < 4 * moved[0.95] < moved[0.0]


def test_a_rung_sums_the_time_and_takes_medians(tmp_path):
    about = {"command": ["scripts/pretrain.py", "--config", "configs/small.yaml"], "python": "3", "torch": "2"}
    about |= {"torchvision": "0", "timm": "1", "device": "cpu", "threads": 1}
    (tmp_path / "environment.json").write_text(json.dumps(about))
    metrics = [{"step": 5, "loss": 1.23456, "extra": 1}, {"step": 9, "loss": 1, "knn_top1": 0.5}]
    timing = [
        {"step": 5, "seconds": 1, "images_per_second": 10, "data_wait": 0.1, "mfu": 0.2, "memory_gib": 3},
        {"step": 9, "seconds": 2, "images_per_second": 90, "data_wait": 0.3, "mfu": 0.9, "memory_gib": 1}
        | {"evaluation_seconds": 4},
        {"step": 12, "seconds": 3, "images_per_second": 20, "data_wait": 0.2, "mfu": 0.3, "memory_gib": 2},
    ]
    for name, lines in (("metrics", metrics), ("timing", timing)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rung = summarise(tmp_path)
    assert (rung["recipe"], rung["command"]) == ("small", "python scripts/pretrain.py --config configs/small.yaml")
    assert (rung["steps"], rung["seconds"], rung["images_per_second"]) == (9, 10, 20)
    assert (rung["data_wait"], rung["mfu"], rung["memory_gib"]) == (0.2, 0.3, 3)
    assert rung["records"] == [{"step": 5, "loss": 1.2346}, {"step": 9, "loss": 1, "knn_top1": 0.5}]


def test_a_run_is_shipped_in_half_precision_and_only_when_finished(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    state = {
        **{"step": 7, "config": {"seed": 3, "name": "x"}, "centering": {"center": torch.zeros(2)}},
        "teacher": {"weight": torch.tensor([0.1]), "count": torch.tensor(3)},
    }
    save_checkpoint(run / "checkpoints", 7, state)
    about = {**dict.fromkeys(ship_models.ORIGIN, "v"), "command": ["secret"], "hostname": "secret"}
    (run / "environment.json").write_text(json.dumps(about))
    last = {"step": 7, "knn_top1": 0.123456789, "linear_top1": 0.5, "unique_prototypes": 9}
    for unfinished in ({"step": 6, "knn_top1": 0.1}, {"step": 7, "loss": 1.0}):
        (run / "metrics.jsonl").write_text(json.dumps(unfinished) + "\n")
        with pytest.raises(SystemExit, match="is not a finished run"):
            ship_models.ship(run, "x", out)
    (run / "metrics.jsonl").write_text(json.dumps(last) + "\n")
    origin = ship_models.ship(run, "x", out)
    assert origin == {"seed": 3, **dict.fromkeys(ship_models.ORIGIN, "v"), **last, "knn_top1": 0.12346}
    packed = torch.load(out / "x.pt", weights_only=True)
    assert {name: tensor.dtype for name, tensor in packed["teacher"].items()} == {
        "weight": torch.float16,
        "count": torch.int64,
    }
    assert packed["step"] == 7
    assert json.loads((out / "x.jsonl").read_text()) == {**last, "knn_top1": 0.12346}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An archive as npm packs one, with what is needed, what is not, and what climbs out of its folder."""
    path = tmp_path / "mathjax.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("tex-chtml.js", "input/tex/a.js", "input/mml.js", "a11y/../../../escaped.js", "README.md"):
            member = tarfile.TarInfo(f"package/es5/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(vendor, "SHA512", digest)
    return path


def test_of_a_package_what_is_needed_is_unpacked(package, tmp_path):
    vendor.unpack(package, tmp_path / "deep" / "mathjax")
    found = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path).rglob("*") if p.is_file() and p != package)
    assert found == [f"deep/mathjax/{name}" for name in ("VERSION", "input/tex/a.js", "tex-chtml.js")]


def test_another_package_is_refused(package, tmp_path):
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(SystemExit, match="its checksum differs"):
        vendor.unpack(package, tmp_path / "mathjax")
    assert not (tmp_path / "mathjax").exists()


def test_pages_are_the_texts_and_the_notebooks(tmp_path):
    notebooks, pages = tmp_path / "notebooks", tmp_path / "pages"
    notebooks.mkdir()
    pages.mkdir()
    (pages / "old.ipynb").write_text("{}")
    names = chapter_names()
    for name in [*names[1:], "99_stray"]:
        (notebooks / f"{name}.ipynb").write_text("{}")
    with pytest.raises(SystemExit, match=f"for: {names[0]}; execute"):
        assemble(notebooks, pages)
    (notebooks / f"{names[0]}.ipynb").write_text("{}")
    assemble(notebooks, pages)
    texts = {path.name for path in SRC.glob("*.md")} - {f"{name}.md" for name in names}
    found = {path.name for path in pages.iterdir() if path.suffix in (".md", ".ipynb")}
    assert found == texts | {f"{name}.ipynb" for name in names}


def test_the_cover_shows_what_its_caption_says(tmp_path):
    _, axis = plt.subplots()
    draw_logits(axis)
    near, near_vmf, far, far_vmf = (line.get_ydata() for line in axis.lines)
    assert (near[0], near_vmf[0], far[0], far_vmf[0]) == (0, 0, 0, 0)
    assert near[-1] == pytest.approx(400 * np.cos(np.deg2rad(40)))
    assert 0 < near_vmf[-1] < near[-1], "a longer prototype wins a close picture, by less"
    assert far_vmf[-1] < 0 < far[-1], "and with the normaliser it loses one at 70 degrees"
    with pytest.raises(SystemExit, match="no finished run"):
        draw_run(axis, tmp_path)
    plt.close()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("12.3 s, 4 ms, 5µs", "TIME, TIME, TIME"),
        ("12.3 steps, 4 msx, 3s", "12.3 steps, 4 msx, TIME"),
        ("kappa 0.5, 17, 1e-3", "kappa 0.5, 17, 1e-3"),
        ("<a at 0x7f0011aabbcc>, 0xff", "<a at ADDRESS>, 0xff"),
        ("/tmp/x1/y.png, /usr/tmp2", "PATH /usr/tmp2"),
    ],
)
def test_what_is_left_out_of_the_comparison_of_outputs(text, kept):
    rules = configparser.RawConfigParser()
    rules.read(BOOK / "tools" / "sanitize.cfg", encoding="utf-8")
    for section in rules.sections():
        text = re.sub(rules[section]["regex"], rules[section]["replace"], text)
    assert text == kept
