"""What is packed of a finished run: the teacher, not the student; an unfinished run is refused."""

import json

import pytest
import torch
from ship_models import ORIGIN, ship

from vmflearn.train.checkpoints.checkpoint import save_checkpoint


@pytest.fixture
def run(tmp_path):
    """A run folder with all that is read of it."""
    folder = tmp_path / "run"
    saved = {
        "step": 4,
        "config": {"name": "small", "seed": 3},
        "student": {"w": torch.tensor([1.0, 2.0])},
        "teacher": {"w": torch.tensor([3.0, 4.0]), "count": torch.tensor(7)},
        "centering": {"center": torch.tensor([0.5])},
        "optimizer": {"exp_avg": torch.zeros(1000)},
    }
    save_checkpoint(folder / "checkpoints", 4, saved)
    reached = {"knn_top1": 0.123456789, "linear_top1": 0.5, "unique_prototypes": 9}
    lines = [{"step": 2, "loss": 1.5}, {"step": 4, "loss": 1.25, **reached}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "environment.json").write_text(json.dumps({**dict.fromkeys(ORIGIN, "x"), "command": ["/home/me/secret"]}))
    return folder


def test_the_teacher_and_its_centre_are_packed(run, tmp_path):
    found = ship(run, "small", tmp_path)
    packed = torch.load(tmp_path / "small.pt", weights_only=True)
    assert set(packed) == {"step", "config", "teacher", "centering"}
    assert packed["teacher"]["w"].dtype == torch.float16
    assert packed["teacher"]["w"].tolist() == [3, 4]
    assert packed["teacher"]["count"].dtype == torch.int64
    assert found["seed"] == 3
    assert found["knn_top1"] == 0.12346
    assert "secret" not in json.dumps(found)
    assert json.loads((tmp_path / "small.jsonl").read_text().splitlines()[-1])["unique_prototypes"] == 9


def test_an_unfinished_run_is_refused(run, tmp_path):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    with pytest.raises(SystemExit, match="is not a finished run: give the same command"):
        ship(run, "small", tmp_path)
