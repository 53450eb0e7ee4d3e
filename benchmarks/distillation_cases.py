"""What `distillation.py` compares: the last layer with its loss, the whole head, and the normaliser in a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measure import Peer, Row, compare, timed
from torch import Tensor, nn

from vmflearn.sphere.kernels import length_kernel, log_hypergeometric_kernel
from vmflearn.ssl import DINOHead, LogitCentering, Prototypes, dino_loss, prototype_loss

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04
TOLERANCE = 1e-4
CHUNK = 4096


def pairwise_loss(student: Tensor, targets: Tensor) -> Tensor:
    """DINO's loss as its algorithm is written: a cross-entropy for every pair of a teacher view and another crop."""
    terms = [
        -(q * s.log_softmax(dim=-1)).sum(dim=-1).mean()
        for u, q in enumerate(targets)
        for v, s in enumerate(student)
        if u != v
    ]
    return torch.stack(terms).mean()


def _gradients(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], list[Tensor]]:
    def work() -> list[Tensor]:
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return work


def _assert_equal(name: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        gap = float((a - b.reshape(a.shape)).norm() / a.norm())
        assert gap < TOLERANCE, f"{name} differs by {gap:.2g}"


def measure_last_layer(sizes: Any) -> list[Row]:
    """From bottleneck vectors to the loss and back: against the logits written down, and against bare products."""
    torch.manual_seed(0)
    prototypes = Prototypes(sizes.dim, sizes.components, "vmf")
    y = F.normalize(torch.randn(sizes.crops, sizes.batch, sizes.dim), dim=-1).requires_grad_()
    targets = torch.randn(2, sizes.batch, sizes.components).softmax(dim=-1)
    leaves = [y, prototypes.weight_v, prototypes.weight_g]
    ours = _gradients(lambda: prototype_loss(y, prototypes, STUDENT_TEMP, targets), leaves)
    ways = {
        "autograd, one log-sum-exp a crop": lambda: dino_loss(prototypes(y, STUDENT_TEMP), targets),
        "autograd, pair by pair": lambda: pairwise_loss(prototypes(y, STUDENT_TEMP), targets),
    }
    works = {name: _gradients(loss, leaves) for name, loss in ways.items()}
    reference = [x.clone() for x in ours()]
    for name, work in works.items():
        _assert_equal(name, reference, work())

    rows, w = y.detach().flatten(0, 1), prototypes.weight_v.detach()
    buffer = torch.empty(len(rows), min(CHUNK, len(w)))

    def four_products() -> None:
        """Logits, logits again, gradient to y, gradient to the prototypes: what no chunked way can do without."""
        grad_y, grad_w = torch.zeros_like(rows), torch.empty_like(w)
        for start in range(0, len(w), CHUNK):
            part = w[start : start + CHUNK]
            s = buffer[:, : len(part)]
            torch.mm(rows, part.T, out=s)
            torch.mm(rows, part.T, out=s)
            grad_y.addmm_(s, part)
            torch.mm(s.T, rows, out=grad_w[start : start + CHUNK])

    peers = [Peer("its four matrix products, chunked alike", timed(four_products), 1.4, is_floor=True)]
    peers += [Peer(name, timed(work)) for name, work in works.items()]
    return compare("prototype_loss, forward and backward", timed(ours), peers, sizes.rounds)


def measure_head(sizes: Any) -> list[Row]:
    """From features to the loss and back, and the centre: head, loss and centring together."""
    torch.manual_seed(0)
    build = {"hidden_dim": sizes.hidden, "bottleneck_dim": sizes.dim}
    head = DINOHead(sizes.features, sizes.components, "none", **build)
    teacher = DINOHead(sizes.features, sizes.components, "none", **build).requires_grad_(False)
    x = torch.randn(sizes.crops, sizes.batch, sizes.features)
    centering = LogitCentering(sizes.components)
    leaves = list(head.parameters())

    def our_loss() -> Tensor:
        with torch.no_grad():
            logits = teacher(x[:2], TEACHER_TEMP)
            targets = centering.probabilities(logits, TEACHER_TEMP)
        loss = prototype_loss(head.bottleneck(x), head.prototypes, STUDENT_TEMP, targets)
        centering.update(logits, TEACHER_TEMP)
        return loss

    center = torch.zeros(sizes.components)

    def written_out() -> Tensor:
        with torch.no_grad():
            raw = teacher(x[:2], 1.0)
            targets = torch.softmax((raw - center) / TEACHER_TEMP, dim=-1)
        loss = pairwise_loss(head(x, 1.0) / STUDENT_TEMP, targets)
        center.mul_(0.9).add_(0.1 * raw.mean(dim=(0, 1)))
        return loss

    ours, pairs = _gradients(our_loss, leaves), _gradients(written_out, leaves)
    reference = [g.clone() for g in ours()]
    _assert_equal("DINO written out", reference, pairs())
    peers = [Peer("DINO written out, pair by pair", timed(pairs))]
    theirs = lightly_way(head, teacher, x)
    if theirs is not None:
        # its parameters come in the same order, but for the magnitude before the direction
        found = theirs()
        _assert_equal("lightly", [reference[0], *reference[1:7]], found[:7])
        _assert_equal("lightly's last layer", [reference[8], reference[7]], found[7:])
        peers.append(Peer("lightly's DINOProjectionHead and DINOLoss", timed(theirs)))
    return compare("head, loss and centring, forward and backward", timed(ours), peers, sizes.rounds)


def lightly_way(head: DINOHead, teacher: DINOHead, x: Tensor) -> Callable[[], list[Tensor]] | None:
    """The same with lightly's parts, the weights copied; None where it is not installed."""
    try:
        from lightly.loss import DINOLoss
        from lightly.models.modules.heads import DINOProjectionHead
    except ImportError:
        return None

    def copy(of: DINOHead) -> nn.Module:
        widths = of.in_dim, of.mlp[0].out_features, of.prototypes.bottleneck_dim, of.prototypes.out_dim
        new = DINOProjectionHead(*widths, norm_last_layer=False)
        with torch.no_grad():
            for ours, theirs in zip(of.mlp, new.layers, strict=True):
                if isinstance(ours, nn.Linear):
                    theirs.weight.copy_(ours.weight)
                    theirs.bias.copy_(ours.bias)
            new.last_layer.weight_v.copy_(of.prototypes.weight_v)
            new.last_layer.weight_g.copy_(of.prototypes.weight_g)
        return new

    student_head, teacher_head = copy(head), copy(teacher).requires_grad_(False)
    criterion = DINOLoss(head.prototypes.out_dim, TEACHER_TEMP, TEACHER_TEMP, 0, STUDENT_TEMP)
    leaves = list(student_head.parameters())

    def loss() -> Tensor:
        with torch.no_grad():
            targets = [teacher_head(view) for view in x[:2]]
        return criterion(targets, [student_head(crop) for crop in x], epoch=1)

    return _gradients(loss, leaves)


def normalizer_share(sizes: Any) -> tuple[float, float]:
    """Seconds of the normalisers of one step, and of the step."""
    from vmflearn.ssl import MultiCropNetwork, ProbabilityCentering, create_backbone
    from vmflearn.train import StepSettings, training_step
    from vmflearn.train.methods import DINO
    from vmflearn.train.optimizer import make_optimizer

    def build() -> MultiCropNetwork:
        backbone = create_backbone(sizes.backbone)
        return MultiCropNetwork(backbone, DINOHead(backbone.num_features, sizes.components, "vmf"))

    torch.manual_seed(0)
    student, teacher = build(), build().requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    optimizer = make_optimizer(student)
    method = DINO(student, teacher, ProbabilityCentering(sizes.components))
    crops = [torch.randn(sizes.step_batch, 3, size, size) for size in (224, 224, *[96] * 10)]
    settings = StepSettings(1e-4, 0.04, 0.996, STUDENT_TEMP, TEACHER_TEMP)
    dim = student.prototypes.bottleneck_dim
    kappas = [network.prototypes.concentrations(tau).detach() for network, tau in ((student, 0.1), (teacher, 0.04))]

    def normalizers() -> None:
        for kappa in kappas:
            log_hypergeometric_kernel(kappa, dim)
        length_kernel(kappas[0], dim)

    steps, shares = [], []
    for _ in range(sizes.step_rounds + 1):
        start = time.process_time()
        training_step(method, optimizer, crops, settings)
        steps.append(time.process_time() - start)
        shares.append(timed(normalizers)())
    return statistics.median(shares[1:]), statistics.median(steps[1:])
