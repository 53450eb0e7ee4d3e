"""Votes written out on features made image by image; which network and which arithmetic are asked for."""

import json
import math

import numpy as np
import pytest
import torch

from vmflearn.backbones.creation import create_backbone


def ranks(train, test, k, temperature):
    """Of each test image: how many classes come before its own, 3 where it has no vote."""
    (x, labels), (y, truth) = train, test
    units = (x / x.norm(dim=1, keepdim=True)).double()
    found = []
    for row, true in zip(y, truth.tolist(), strict=True):
        cosines = (units @ (row / row.norm()).double()).tolist()
        votes = {}
        for j in sorted(range(len(x)), key=lambda j: -cosines[j])[:k]:
            votes[int(labels[j])] = votes.get(int(labels[j]), 0) + math.exp((cosines[j] - max(cosines)) / temperature)
        order = sorted(votes, key=lambda c: -votes[c])
        found.append(order.index(true) if true in order else 3)
    return found


@pytest.mark.parametrize("temperature", [0.07, 0.001])
def test_votes_written_out(evaluate, classes, longhand, temperature):
    words = ("--k", 5, 20, "--temperature", temperature)
    result = evaluate.result("knn", "--data", classes, *words)
    truth = longhand.val[1].numpy()
    for row in result["rows"]:
        want = np.array(ranks(longhand.train, longhand.val, row["k"], temperature))
        details = result["details"][f"k={row['k']}"]
        assert details["rank_of_each_image"] == want.tolist()
        assert (row["top1"], row["top5"]) == pytest.approx(((want == 0).mean(), (want < 3).mean()))
        each = [(want[truth == c] == 0).mean() for c in range(3)]
        assert details["top1_of_each_class"] == pytest.approx(each)
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    assert ranks(longhand.train, longhand.val, 20, 0.07) != ranks(longhand.train, longhand.val, 20, 0.001)


def test_the_network_and_its_arithmetic_are_those_asked_for(evaluate, classes):
    torch.manual_seed(1)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1}
    networks = {
        name: {
            f"backbone.{key}": value
            for key, value in create_backbone("vit_small_patch16_224", **options).state_dict().items()
        }
        for name in ("student", "teacher")
    }
    digests = {}
    for name, weights in networks.items():
        evaluate.checkpoint = evaluate.folder / f"{name}.pth"
        torch.save({key.removeprefix("backbone."): value for key, value in weights.items()}, evaluate.checkpoint)
        digests[name] = evaluate.result("knn", "--data", classes, "--k", 1)["settings"]["digest"]
    evaluate.checkpoint = evaluate.folder / "both.pth"
    torch.save(networks, evaluate.checkpoint)
    for words, name in (((), "teacher"), (("--which", "student"), "student")):
        result = evaluate.result("knn", "--data", classes, "--k", 1, *words)
        assert result["settings"]["digest"] == digests[name]
    evaluate.checkpoint = evaluate.folder / "teacher.pth"
    other = evaluate.result("knn", "--data", classes, "--k", 1, "--num-heads", 2, "--size", 16)["settings"]
    assert other["digest"] != digests["teacher"]
    assert (other["size"], other["resized"]) == (16, round(16 * 37 / 32))
    cache = evaluate.folder / "cache"
    evaluate.result("knn", "--data", classes, "--k", 1, "--precision", "bf16", "--cache", cache)
    assert {json.loads(path.read_text())["precision"] for path in cache.glob("*/about.json")} == {"bf16"}
