"""Let only the last layer learn, on unit vectors that stay as they are (chapter 9).

    python book/tools/run_on.py

Takes the bottleneck vectors that the shipped DINO-vMF model gives to eight global crops of every train patch, and
trains 256 fresh prototypes on them for 1,500 steps, in each of the six settings of Table 1: teacher, student, EMA and
centring as in pretraining, without the network. Writes book/results/run_on.json (settings, and what was counted on the
way) and book/models/run_on.pt (the teacher's prototypes at the end, in float16).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from chapters import BOOK
from precision import Embedding
from torch import Tensor

from vmflearn import paper
from vmflearn.data import load_photos
from vmflearn.ssl import (
    LogitCentering,
    ProbabilityCentering,
    Prototypes,
    dino_crops,
    load_published,
    multi_crop,
    prototype_loss,
    unique_prototypes,
)

SETTINGS = {
    "prototypes": 256,
    "steps": 1500,
    "batch": 128,
    "views": 8,
    "lr": 5e-3,
    "weight_decay": 0.04,
    "momentum": 0.95,
    "student_temp": 0.1,
    "teacher_temp": 0.04,
    "seed": 0,
    "every": 50,
}


@torch.no_grad()
def frozen_vectors() -> Tensor:
    """Bottleneck vectors of views of all train patches, (views, 1800, 64), as in pretraining."""
    backbone, head = load_published(BOOK / "models" / "dino_vmf.pt")
    assert head is not None
    embed, images = Embedding(backbone, head), load_photos("train").images
    crops = dino_crops(32, 16, 0, (0.25, 1.0), sigma=(0.1, 0.4), jitter=0.4, grey=0.05)
    indices = torch.arange(len(images))
    pairs = [multi_crop(images, indices, crops=crops, seed=0, epoch=e) for e in range(SETTINGS["views"] // 2)]
    return torch.stack([embed(view) for pair in pairs for view in pair])


def counts(teacher: Prototypes, y: Tensor) -> dict[str, int]:
    """Unique prototypes, the largest set of duplicates, and components that are the most probable of some vector."""
    use = unique_prototypes(teacher.directions)
    chosen = teacher(y.flatten(0, 1), SETTINGS["teacher_temp"]).argmax(dim=1)
    return {"unique": use.count, "largest": use.largest, "used": len(chosen.unique())}


def run_on(y: Tensor, normalization: str, centering: str, steps: int) -> tuple[list[dict[str, Any]], Prototypes]:
    """Train fresh prototypes; returns what was counted on the way, and the teacher."""
    s = SETTINGS
    torch.manual_seed(s["seed"])
    student = Prototypes(y.shape[-1], s["prototypes"], normalization)
    teacher = copy.deepcopy(student).requires_grad_(False)
    centre = (LogitCentering if centering == "logit" else ProbabilityCentering)(s["prototypes"])
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=s["lr"], weight_decay=s["weight_decay"])
    history = []
    for step in range(steps + 1):
        seen = y[torch.randperm(len(y))[:2]][:, torch.randint(y.shape[1], (s["batch"],))]
        logits = teacher(seen, s["teacher_temp"])
        targets = centre.probabilities(logits, s["teacher_temp"])
        loss = prototype_loss(seen, student, s["student_temp"], targets)
        if step % s["every"] == 0:
            history.append({"step": step, "loss": round(loss.item(), 4), **counts(teacher, y)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - s["momentum"])
        centre.update(logits, s["teacher_temp"])
    return history, teacher


def main() -> None:
    """Run all six settings."""
    torch.set_num_threads(1)
    y, histories, ends = frozen_vectors(), {}, {}
    for normalization in paper.NORMALIZATIONS:
        for centering in paper.CENTERINGS:
            cell = f"{normalization}+{centering}"
            histories[cell], teacher = run_on(y, normalization, centering, SETTINGS["steps"])
            ends[cell] = {name: tensor.half() for name, tensor in teacher.state_dict().items()}
            print(cell, histories[cell][-1], flush=True)
    lines = ",\n".join(f' "{cell}": {json.dumps(history)}' for cell, history in histories.items())
    about = json.dumps({**SETTINGS, "torch": torch.__version__, "threads": torch.get_num_threads()})
    text = f'{{"settings": {about},\n"histories": {{\n{lines}\n}}}}\n'
    (BOOK / "results" / "run_on.json").write_text(text, encoding="utf-8")
    torch.save(ends, BOOK / "models" / "run_on.pt")


if __name__ == "__main__":
    main()
