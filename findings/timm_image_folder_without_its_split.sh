#!/usr/bin/env bash
# timm 1.0.31: create_dataset("torch/image_folder", root, split="test") without a folder `test` gives a data set of
# two classes named `train` and `val`, with the images of both in it. No error or warning says so.
#
# A good engineer expects what the same call does for a split that is there, or "no such folder". A misspelt or
# missing split (`test`, `Train`) falls back to the parent folder, whose sub-folders become the classes: training
# then runs on the validation images too, and an evaluation reports the accuracy of telling train from val.
#
# Seen:
#   split=train: 2 images of the classes ['cat', 'dog']
#   split=validation: 2 images of the classes ['cat', 'dog']
#   split=test: 4 images of the classes ['train', 'val']
#   split=Train: 4 images of the classes ['train', 'val']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31
"$folder/env/bin/python" - "$folder/images" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image
from timm.data import create_dataset

root = Path(sys.argv[1])
for split in ("train", "val"):
    for name in ("cat", "dog"):
        (root / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / split / name / "image.png")

found = {}
for split in ("train", "validation", "test", "Train"):
    images = create_dataset("torch/image_folder", str(root), split=split)
    found[split] = images.classes, len(images)
    print(f"split={split}: {len(images)} images of the classes {images.classes}")
assert found["train"] == found["validation"] == (["cat", "dog"], 2)
assert found["test"] == found["Train"] == (["train", "val"], 4)
PYTHON
