"""What `patches.py` compares: steps of iBOT and MSN, ours and iBOT's longhand, beside DINO's of the same crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from measure import Timer, timed
from torch import Tensor

from vmflearn.backbones.tokens import token_features
from vmflearn.ssl import DINOHead, LogitCentering, MultiCropNetwork, ProbabilityCentering, create_backbone
from vmflearn.ssl.anchor_network import AnchorNetwork
from vmflearn.ssl.patch_network import PatchNetwork
from vmflearn.train import StepSettings, training_step
from vmflearn.train.methods.base import Method
from vmflearn.train.methods.dino import DINO
from vmflearn.train.methods.ibot import IBOT, IBOTSettings
from vmflearn.train.methods.msn import MSN, MSNSettings
from vmflearn.train.optimizer import make_optimizer

SETTINGS = StepSettings(1e-4, 0.04, 0.996, student_temp=0.1, teacher_temp=0.04, clip_grad=3.0)
PATCHES = IBOTSettings(
    mask_ratios=(0.3, 0.3), mask_spreads=(0.0, 0.0), patch_warmup_temp=0.07, patch_temp_warmup_epochs=0
)


def make_crops(sizes: Any) -> list[Tensor]:
    """Random pixels in the recipe's crops."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(sizes.batch, 3, side, side, generator=generator) for side in sizes.crops]


class Way:
    """A method of ours on fresh networks; all ways start from the same weights where they have the same parts.

    Parameters
    ----------
    sizes
        Backbone, crops, batch and components.
    method
        "dino", "ibot" or "msn".
    normalization
        Of the prototypes.
    """

    fused_attention = True

    def __init__(self, sizes: Any, method: str, normalization: str = "vmf", autocast: bool = False):
        self.settings = replace(SETTINGS, autocast=autocast)
        kind = {"dino": MultiCropNetwork, "ibot": PatchNetwork, "msn": AnchorNetwork}[method]
        networks = []
        torch.manual_seed(0)
        for _ in range(2):
            backbone = create_backbone(sizes.backbone)
            for block in backbone.blocks:
                block.attn.fused_attn = self.fused_attention and not autocast
            components = sizes.msn_components if method == "msn" else sizes.components
            head = DINOHead(backbone.num_features, components, normalization, batch_norm=method == "msn")
            networks.append(kind(backbone, head))
        student, teacher = networks[0], networks[1].requires_grad_(False)
        teacher.load_state_dict(student.state_dict())
        centers = [
            ProbabilityCentering(sizes.components) if normalization == "vmf" else LogitCentering(sizes.components)
            for _ in range(2)
        ]
        self.method: Method = {
            "dino": lambda: DINO(student, teacher, centers[0]),
            "ibot": lambda: IBOT(student, teacher, centers[0], centers[1], PATCHES),
            "msn": lambda: MSN(student, teacher, MSNSettings()),
        }[method]()
        self.optimizer = make_optimizer(student, undecayed=self.method.undecayed, fused=autocast)
        self.indices = torch.arange(sizes.batch)

    def step(self, crops: list[Tensor]) -> list[float]:
        """Take one step; returns the terms of its loss."""
        result = training_step(self.method, self.optimizer, crops, self.settings, indices=torch.arange(len(crops[0])))
        return list(result.terms.values())


class Longhand(Way):
    """iBOT's step as its authors write it.

    Attention with its matrix; all tokens of all crops through head and prototypes; a softmax for every pair of views,
    over all patches; the mask as a factor; gradients and teacher tensor by tensor.
    """

    fused_attention = False
    patch_temp = PATCHES.patch_temp

    def __init__(self, sizes: Any, normalization: str = "vmf", autocast: bool = False):
        super().__init__(sizes, "ibot", normalization, autocast)
        self.optimizer = make_optimizer(self.method.student)
        self.centers = torch.zeros(2, sizes.components)

    def logits(self, network: Any, crops: list[Tensor], masks: Tensor | None, temps: tuple[float, float]) -> Any:
        """Class and patch logits of crops of one size, views first."""
        tokens = token_features(
            network.backbone, torch.cat(crops), masks=masks, mask_token=None if masks is None else network.mask_token
        )
        y = network.head.bottleneck(tokens)
        shape = (len(crops), -1)
        return (
            network.prototypes(y[:, 0], temps[0]).unflatten(0, shape),
            network.prototypes(y[:, 1:], temps[1]).unflatten(0, shape),
        )

    def step(self, crops: list[Tensor]) -> list[float]:
        """Take one step; returns the terms of its loss."""
        s, patch_tau = self.settings, self.patch_temp
        student, teacher = self.method.student, self.method.teacher
        masks = self.method.divide(crops, s, torch.arange(len(crops[0])))[0].inputs[1]
        vmf = student.prototypes.normalization == "vmf"
        with torch.autocast("cpu", torch.bfloat16, enabled=s.autocast):
            with torch.no_grad():
                t_cls, t_patch = self.logits(teacher, crops[:2], None, (s.teacher_temp, patch_tau))
            temps = (s.student_temp, s.student_temp)
            s_cls, s_patch = self.logits(student, crops[:2], masks.flatten(0, 1), temps)
            local_cls, _ = self.logits(student, crops[2:], None, temps)  # their patches are scored too, and not used
        shift = self.centers if vmf else self.centers / torch.tensor([[s.teacher_temp], [patch_tau]])
        q_cls, q_patch = torch.softmax(t_cls - shift[0], -1), torch.softmax(t_patch - shift[1], -1)
        seen = [*s_cls, *local_cls]
        cls_terms, patch_terms = [], []
        for u in range(2):
            for v, z in enumerate(seen):
                if u == v:
                    loss = -(q_patch[u] * torch.log_softmax(s_patch[u], -1)).sum(-1)
                    mask = masks[u].flatten(1).float()
                    patch_terms.append(((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean())
                else:
                    cls_terms.append(-(q_cls[u] * torch.log_softmax(z, -1)).sum(-1).mean())
        terms = [sum(cls_terms) / len(cls_terms), sum(patch_terms) / len(patch_terms)]
        self.optimizer.zero_grad()
        (terms[0] + terms[1]).backward()
        for parameter in student.parameters():
            if parameter.grad is not None:
                clip = s.clip_grad / (parameter.grad.norm(2) + 1e-6)
                if clip < 1:
                    parameter.grad.mul_(clip)
        for group, decay in zip(self.optimizer.param_groups, (s.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = s.lr, decay
        self.optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                ours.mul_(s.momentum).add_((1 - s.momentum) * theirs)
            for i, (z, tau) in enumerate(((t_cls, s.teacher_temp), (t_patch, patch_tau))):
                rows = z.flatten(0, -2)
                batch = torch.softmax(rows, -1).mean(0).log() if vmf else rows.mean(0) * tau
                self.centers[i] = 0.9 * self.centers[i] + 0.1 * batch
        return [float(term.detach()) for term in terms]


def assert_equal_steps(sizes: Any) -> None:
    """Two steps of ours and of the longhand from the same weights: equal losses and parameters."""
    crops, ways = make_crops(sizes), (Way(sizes, "ibot"), Longhand(sizes))
    found = [[way.step(crops) for _ in range(2)] for way in ways]
    for ours, theirs in zip(*found, strict=True):
        gap = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
        assert gap < 1e-4, f"the losses differ by {gap:.2g}"
    a, b = (torch.cat([p.detach().flatten() for p in way.method.student.parameters()]) for way in ways)
    assert float((a - b).norm() / b.norm()) < 1e-4, "the parameters differ"


def normalizer_timer(sizes: Any) -> Timer:
    """Log-normalisers of the student's prototypes (with its derivative) and the teacher's, for both terms."""
    way = Way(sizes, "ibot")
    prototypes = way.method.student.prototypes

    def work() -> None:
        for tau in (SETTINGS.student_temp, SETTINGS.student_temp):
            prototypes.log_normalizers(tau).sum().backward()
        for tau in (SETTINGS.teacher_temp, PATCHES.patch_temp):
            way.method.teacher.prototypes.log_normalizers(tau)

    return timed(work)
