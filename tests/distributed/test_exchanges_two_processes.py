"""What two processes (gloo) tell one another, piece by piece: each gets what one would have."""

import textwrap

import numpy as np
import preloaded
import pytest
from PIL import Image

from vmflearn.data.photos import load_photos

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

REDUCTIONS = """
    largest = d.max_over_processes([3, 2][r])
    assert largest == 3, largest
    assert d.sum_over_processes(torch.tensor([1.0, 2.0]) * (r + 1)).tolist() == [3.0, 6.0]
    assert d.broadcast_from_first(torch.tensor([7 + r])).tolist() == [7]
    gathered = d.gather_rows(torch.full((1 + 2 * r, 2), r))
    assert gathered[:, 0].tolist() == [0, 1, 1, 1], gathered
    for fails in (0, 1):
        def work():
            if r == fails:
                raise OverflowError("too much")
            return r
        try:
            d.all_or_none(work)
        except OverflowError:
            assert r == fails
        except ValueError as error:
            assert r != fails and f"process {fails} could not go on: OverflowError: too much" in str(error)
        else:
            raise AssertionError("one failed, and the other went on")
    assert d.all_or_none(lambda: r) == r
"""

WORST = """
    from vmflearn.sphere.em import Data, Model, Parameters
    from vmflearn.sphere.fitting import worst_explained
    from vmflearn.sphere.rows import dense_rows
    around = torch.tensor([[[1.0, 0.1], [1.0, -0.1]], [[1.0, 0.2], [-0.6, 0.8]]], dtype=torch.float64)[r]
    data = Data(dense_rows(around, torch.device("cpu"), 100)[0], torch.ones(2, dtype=torch.float64), 4.0, 4)
    mixture = Parameters(*(torch.tensor(x, dtype=torch.float64) for x in ([1.0], [[1.0, 0.0]], [5.0])))
    worst = worst_explained(data, mixture, Model("free", "soft", 0.0, 1e-8), 100)
    torch.testing.assert_close(worst, torch.tensor([-0.6, 0.8], dtype=torch.float64))
"""

PROBE = """
    from vmflearn.train.linear_probe import LinearProbe
    torch.manual_seed(0)
    rows, labels = torch.randn(2, 12, 5), torch.arange(12) % 3
    ours = [LinearProbe(labels, 3, 5, torch.device("cpu")) for _ in range(2)]
    for _ in range(4):
        ours[0].learn(rows[:, 6 * r : 6 * r + 6], torch.arange(6 * r, 6 * r + 6))
    alone = torch.load(sys.argv[1] + "/alone.pt")
    torch.testing.assert_close(ours[0].weight.detach(), alone)
"""

FEATURES = """
    from vmflearn.backbones.creation import create_backbone
    from vmflearn.train import load_config
    from vmflearn.train.knn_probe import KNNProbe
    config = load_config(overrides=["data.source=folder", f"data.root={sys.argv[1]}/images",
        f"data.val_root={sys.argv[1]}/images", "views.global_size=16", "run.knn_k=3"])
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    features, labels = KNNProbe(config, torch.device("cpu")).features(backbone)
    expected = torch.load(sys.argv[1] + "/features.pt")
    assert [x.shape for x in features] == [x.shape for x in expected]
    torch.testing.assert_close(features, expected)
    assert labels[0].tolist() == [0] * 5 + [1] * 4, labels
"""

SPEED = """
    from vmflearn.ssl import DINOHead, MultiCropNetwork
    from vmflearn.train.cost import timing
    from vmflearn.train.methods.base import Work
    timing.matrix_rate = lambda *arguments: 1e6
    network = MultiCropNetwork(backbone, DINOHead(16, 8, hidden_dim=8, bottleneck_dim=4))
    work = Work([(16, 0.0)] * 2, [(16, 0.0)] * 2, 2, 2, 2, 2)
    assert timing.Speedometer(network, work, torch.device("cpu"), "float32").peak == 2e6
"""


def test_two_processes_tell_one_another_what_one_knows(tmp_path):
    import torch

    from vmflearn.backbones.creation import create_backbone
    from vmflearn.train import load_config
    from vmflearn.train.knn_probe import KNNProbe
    from vmflearn.train.linear_probe import LinearProbe

    torch.manual_seed(0)
    rows, labels = torch.randn(2, 12, 5), torch.arange(12) % 3
    probe = LinearProbe(labels, 3, 5, torch.device("cpu"))
    for _ in range(4):
        probe.learn(rows, torch.arange(12))
    torch.save(probe.weight.detach(), tmp_path / "alone.pt")

    photos = load_photos("train")
    for i in range(9):
        path = tmp_path / "images" / f"class{i // 5}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(photos.images[150 * i].permute(1, 2, 0).numpy())).save(path)
    config = load_config(
        overrides=[
            "data.source=folder",
            f"data.root={tmp_path / 'images'}",
            f"data.val_root={tmp_path / 'images'}",
            "views.global_size=16",
            "run.knn_k=3",
        ]
    )
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    torch.save(KNNProbe(config, torch.device("cpu")).features(backbone)[0], tmp_path / "features.pt")

    head = """
    import sys, torch, torch.distributed as dist
    from vmflearn import distributed as d
    dist.init_process_group("gloo")
    r = d.rank()
    """
    script = tmp_path / "exchanges.py"
    script.write_text("".join(map(textwrap.dedent, (head, REDUCTIONS, WORST, PROBE, FEATURES, SPEED))))
    done = preloaded.together(2, [script, tmp_path])
    assert done.returncode == 0, done.stderr[-3000:]
