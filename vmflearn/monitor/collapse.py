"""Watch a run for collapse, and name what went wrong with the usual cures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmflearn.distributed import gather_rows, sum_over_processes, world_size
from vmflearn.monitor.prototype_use import void_prototypes
from vmflearn.monitor.statistics import (
    effective_rank,
    feature_std,
    feature_variance,
    patch_statistics,
    prototype_statistics,
    teacher_statistics,
)
from vmflearn.ssl.prototypes import Prototypes

PATIENCE = 3
"""Observations in a row that must agree before a collapse is named."""

SETTLING = 20
"""Steps after the first observation in which nothing about the output is named: the centre starts at zero."""

FEWEST_IMAGES = 4
"""With fewer images an observation cannot tell whether the output depends on the image."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, the numbers that show it, and what usually helps."""

    name: str
    evidence: str
    cures: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}\n  usual cures: {self.cures}"


OF_PATCHES = " of patches"
"""What the name of a finding ends in that is about patches."""

CURES = {
    "constant output": "check that the centre is updated, lower its momentum, raise teacher_temp a little, "
    "a smaller learning rate, freeze the last layer longer",
    "uniform output": "lower teacher_temp (0.02 to 0.04) and keep it below student_temp, freeze the last layer longer, "
    "a smaller learning rate, another EMA momentum",
    "temperature too high": "set teacher_temp below student_temp, such as 0.04 beside 0.1",
    "student is teacher": "build the teacher as a module of its own, copy the student's weights into it once, "
    "and update it by EMA with a momentum near 0.996",
    "not a number": "look at the images named, use bfloat16 or float32 instead of float16, a lower learning rate, "
    "a longer warm-up, clip_grad",
    "void prototypes": "normalise by the mixture (vmf) with probability centring, a KoLeo term on the prototypes, "
    "or fewer components",
    "constant output of patches": "check that the centre of the patches is updated, lower its momentum, raise "
    "patch_temp a little, a smaller learning rate, freeze the last layer longer",
    "uniform output of patches": "lower patch_temp (0.02 to 0.04) and keep it below student_temp, mask fewer patches, "
    "freeze the last layer longer, a smaller learning rate",
    "temperature too high of patches": "set patch_temp below student_temp, such as 0.04 beside 0.1",
}


@torch.no_grad()
def locate_not_finite(**tensors: Tensor) -> Finding | None:
    """Find the images behind a NaN or an infinity; call it on all processes, before a step is given up.

    Parameters
    ----------
    **tensors : Tensor
        By the name the finding shall use: (crops, batch, dim) or (batch, dim), images in the last but one dimension;
        a scalar such as the loss has no image. Shapes the same on all processes but for the batch.

    Returns
    -------
    Finding or None
        "not a number", with the images counted through the processes in the order of their ranks; None if all is well.
    """
    parts = []
    for name, tensor in tensors.items():
        bad = ~tensor.detach().isfinite()
        if tensor.ndim < 2:
            if float(sum_over_processes(bad.sum().float())):
                parts.append(name)
            continue
        images = bad.any(dim=-1)
        images = images if images.ndim == 1 else images.flatten(0, -2).any(dim=0)
        rows = gather_rows(images.to(torch.uint8)).nonzero().flatten().tolist()
        if rows:
            shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
            parts.append(f"{name} of image{'s' if len(rows) > 1 else ''} {shown} of the batch")
    return Finding("not a number", "not finite: " + "; ".join(parts), CURES["not a number"]) if parts else None


@dataclass(frozen=True)
class _Output:
    """What one observation says of the teacher's output, for images or for patches."""

    age: float  # steps since the first observation
    ln_k: float
    entropy: float
    information: float
    variance: float  # of y
    first_variance: float
    rows: float  # images or patches
    student_temp: float
    teacher_temp: float

    @classmethod
    def of(cls, seen: dict[str, float], first: dict[str, float], kind: str, out_dim: int) -> "_Output | None":
        """From the numbers whose names begin with ``kind``; None if they are not there."""
        if f"{kind}teacher_entropy" not in seen:
            return None
        return cls(
            seen["step"] - first[f"{kind}step"],
            math.log(seen.get(f"{kind}components", out_dim)),
            seen[f"{kind}teacher_entropy"],
            seen[f"{kind}teacher_information"],
            seen[f"{kind}teacher_y_variance"],
            first[f"{kind}teacher_y_variance"],
            seen[f"{kind}images"],
            seen["student_temp"],
            seen[f"{kind}teacher_temp"],
        )

    def name(self) -> str:
        """The collapse that it looks like, or nothing."""
        if self.rows < FEWEST_IMAGES:
            return ""
        hot = self.teacher_temp >= self.student_temp
        gone = self.variance < max(1e-12, (1e-2 if hot else 1e-6) * self.first_variance)
        if self.entropy > 0.97 * self.ln_k:
            if gone:
                return "uniform output"
            return "temperature too high" if hot else ""
        possible = min(self.ln_k - self.entropy, math.log(self.rows))
        independent = self.information < 0.05 * possible
        return "constant output" if independent and (gone or self.entropy < 0.75 * self.ln_k) else ""

    def evidence(self, seen: dict[str, float], rows: str) -> str:
        """The numbers that show it."""
        return (
            f"step {seen['step']:.0f}, teacher entropy {self.entropy:.3g} of ln K = {self.ln_k:.3g}, information "
            f"{self.information:.2g} nats over {self.rows:.0f} {rows}, variance of y {self.variance:.2g} "
            f"({self.first_variance:.2g} at the start), "
            + (f"loss {seen['loss_to_ln_k']:.3f} ln K, " if rows == "images" else "")
            + f"temperatures {self.teacher_temp:g} (teacher) and {self.student_temp:g} (student)"
        )


class Monitor:
    """Watches a run: ``count`` at every step, ``observe`` at the steps that are logged, ``findings`` after it.

    How it judges. At the start of a healthy run the features of all images are nearly equal, the centred teacher is
    nearly uniform, the loss is near ln K and the information near 0; with many components this lasts. So none of these
    alone is an alarm, and nothing about the output is named before `SETTLING` steps and `PATIENCE` observations that
    agree. With H the teacher's entropy, I its information, v the variance of the teacher's unit vectors y:

    - v has *gone* if it is rounding (below 1e-12), or below a share of what it was at the first observation: 1/100 if
      teacher_temp >= student_temp, 1e-6 if the teacher is sharper: then a healthy v may fall to 1/300 and come back;
    - "constant output": I is below 5 % of what it could be, min(ln K - H, ln images), while H < 0.75 ln K, or while
      v has gone and H is not near ln K; and H no longer rises, as it does while the centre catches up;
    - "uniform output": H > 0.97 ln K and v has gone;
    - "temperature too high": H > 0.97 ln K though v has not gone, and teacher_temp >= student_temp;
    - these three "of patches": by what the teacher makes of iBOT's masked patches, from the first that there are;
    - "student is teacher": one object, shared memory, or equal weights at every observation while they move;
    - "void prototypes": of the prototypes, a tenth or more lie opposite to the mean of y and won no image;
    - "not a number": see `locate_not_finite`.

    Parameters
    ----------
    out_dim : int
        Number of components K, at least 2.
    window : int
        Images (of all processes, each view one) over which the use of components is counted.
    teacher_lags : bool
        Whether the teacher is to stay behind the student. False, for a method whose teacher is a copy, takes equal
        weights for what is meant; shared memory is named still.
    cures : dict of str, optional
        By the name of a finding, what helps in place of `CURES`.

    Raises
    ------
    ValueError
        For a number that is too small.
    """

    def __init__(
        self,
        out_dim: int,
        window: int = 16384,
        *,
        teacher_lags: bool = True,
        cures: Mapping[str, str] | None = None,
    ) -> None:
        if out_dim < 2:
            raise ValueError(f"out_dim must be at least 2, got {out_dim}: one component has nothing to choose")
        if window < 1:
            raise ValueError(f"window must be at least 1 image, got {window}")
        self.out_dim, self.window, self.teacher_lags = out_dim, window, teacher_lags
        self.cures = {**CURES, **(cures or {})}
        self._images = 0  # counted, over all processes
        self._last_win = torch.full((out_dim,), -1, dtype=torch.int64)  # value of _images when a component won last
        self._first: dict[str, float] = {}
        self._recent: list[dict[str, float]] = []
        self._not_finite: Finding | None = None

    @torch.no_grad()
    def count(self, targets: Tensor) -> None:
        """Note which components win (2, batch, out_dim) targets; no communication, and the device is not waited for."""
        if targets.shape[-1] != self.out_dim:
            raise ValueError(f"targets must have shape (..., {self.out_dim}), got {tuple(targets.shape)}")
        winners = targets.detach().flatten(0, -2).argmax(dim=-1)
        self._images += len(winners) * world_size()
        self._last_win = self._last_win.to(winners.device).index_fill(0, winners, self._images)

    @torch.no_grad()
    def share(self) -> None:
        """Tell all processes what won on any of them: all call it before one of them saves the state."""
        self._last_win = gather_rows(self._last_win[None]).amax(dim=0)

    @torch.no_grad()
    def observe(
        self,
        *,
        step: int,
        loss: float,
        targets: Tensor,
        features: Tensor,
        teacher_y: Tensor,
        student: nn.Module,
        teacher: nn.Module,
        student_temp: float,
        teacher_temp: float,
        patches: tuple[Tensor, Tensor, float] | None = None,
    ) -> dict[str, float]:
        """Measure, and remember what `findings` needs. All processes call it, at the steps that are logged.

        Parameters
        ----------
        step : int
            Steps taken.
        loss : float
            Mean of the cross-entropy over all processes.
        targets : Tensor of shape (2, batch, out_dim)
        features : Tensor of shape (2, batch, features)
            The teacher's, before the head.
        teacher_y : Tensor of shape (2, batch, bottleneck_dim)
            The teacher's bottleneck vectors.
        student, teacher : nn.Module
            The modules themselves, not a DDP wrapper, after or before the step's update.
        student_temp, teacher_temp : float
        patches : (Tensor, Tensor, float), optional
            Of iBOT's masked patches the teacher's targets (n, patch_out_dim) and bottleneck vectors (n,
            bottleneck_dim), and its temperature for them.

        Returns
        -------
        dict of float
            ``teacher_entropy``, ``teacher_information``, ``kl``, ``loss_to_ln_k``, ``feature_std``,
            ``feature_variance``, ``teacher_y_variance``, ``feature_rank``, ``components_used``, ``ema_distance``, and
            with prototypes ``void_prototypes`` (share) and `prototype_statistics`; where patches are masked
            ``patch_teacher_entropy``, ``patch_teacher_information`` and ``patch_teacher_y_variance``. Empty if
            something is not finite.
        """
        loss_there = torch.tensor(loss, device=targets.device)
        self._not_finite = locate_not_finite(loss=loss_there, features=features, teacher_y=teacher_y, targets=targets)
        if self._not_finite is not None:
            return {}
        self.share()
        last_win = self._last_win.to(targets.device)
        used = (last_win >= 0) & (last_win > self._images - self.window)
        distance, fingerprint, shared = _compare(student, teacher)
        metrics = {
            **teacher_statistics(targets, loss),
            "loss_to_ln_k": loss / math.log(self.out_dim),
            "feature_std": feature_std(features),
            "feature_variance": feature_variance(features),
            "teacher_y_variance": feature_variance(teacher_y),
            "feature_rank": effective_rank(features),
            "components_used": float(used.float().mean()),
            "ema_distance": distance,
        }
        prototypes = next((module for module in teacher.modules() if isinstance(module, Prototypes)), None)
        if prototypes is not None:
            y = teacher_y.flatten(0, -2).float()
            mean = sum_over_processes(F.normalize(y, dim=-1).sum(dim=0))
            if float(mean.norm()) > 0:
                void = void_prototypes(prototypes.directions.float(), mean, chosen=used)
                metrics["void_prototypes"] = float(void.float().mean())
            metrics |= prototype_statistics(prototypes, teacher_temp)
        images = float(sum_over_processes(torch.tensor(float(targets.shape[-2]))))
        hidden = {"step": float(step), "images": images, "shared": float(shared), "fingerprint": fingerprint}
        hidden |= {"student_temp": student_temp, "teacher_temp": teacher_temp}
        if patches is not None and (found := patch_statistics(*patches[:2])):
            metrics |= {f"patch_teacher_{name}": found[name] for name in ("entropy", "information", "y_variance")}
            hidden |= {"patch_images": found["patches"], "patch_teacher_temp": patches[2], "patch_step": float(step)}
            hidden["patch_components"] = float(patches[0].shape[-1])
        seen = metrics | hidden
        # What belongs to patches is first seen where the first patch is masked.
        self._first = {**{k: v for k, v in seen.items() if not self._first or k.startswith("patch_")}, **self._first}
        self._recent = [*self._recent, seen][-PATIENCE:]
        return metrics

    def findings(self) -> list[Finding]:
        """What is wrong now, by the latest observations; an empty list if nothing is."""
        found = [] if self._not_finite is None else [self._not_finite]
        if not self._recent:
            return found
        now = self._recent[-1]
        patient = len(self._recent) == PATIENCE
        still = self.teacher_lags and patient and all(s["ema_distance"] == 0 for s in self._recent)
        if now["shared"] or (still and self._recent[0]["fingerprint"] != now["fingerprint"]):
            how = "they share their weights in memory" if now["shared"] else "the weights move, and stay exactly equal"
            evidence = f"{how}; EMA distance {now['ema_distance']:.3g}, KL {now['kl']:.3g}"
            found.append(Finding("student is teacher", evidence, self.cures["student is teacher"]))
        if patient:
            found += [finding for kind in ("", "patch_") if (finding := self._collapse(kind)) is not None]
            void = all(seen.get("void_prototypes", 0) >= 0.1 for seen in self._recent)
            if void and self._images >= self.window and now["step"] - self._first["step"] >= SETTLING:
                evidence = (
                    f"{now['void_prototypes']:.0%} of the prototypes point away from the mean of y and won none of the "
                    f"last {self.window} views"
                )
                found.append(Finding("void prototypes", evidence, self.cures["void prototypes"]))
        return found

    def _collapse(self, kind: str) -> Finding | None:
        """The collapse that the recent observations agree on, of images (kind "") or of patches ("patch_")."""
        recent = [_Output.of(seen, self._first, kind, self.out_dim) for seen in self._recent]
        outputs = [output for output in recent if output is not None]
        if len(outputs) < len(recent) or outputs[-1].age < SETTLING:
            return None
        names = [output.name() for output in outputs]
        rise = outputs[-1].entropy - outputs[0].entropy
        settled = names[0] != "constant output" or rise < 0.01 * outputs[-1].ln_k
        if not names[0] or len(set(names)) > 1 or not settled:
            return None
        name = names[0] + (OF_PATCHES if kind else "")
        return Finding(name, outputs[-1].evidence(self._recent[-1], "patches" if kind else "images"), self.cures[name])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values. Wins on other processes since the last ``share`` are not in it."""
        return {
            "images": self._images,
            "last_win": self._last_win.cpu(),
            "first": dict(self._first),
            "recent": [dict(seen) for seen in self._recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a monitor of the same out_dim; ValueError for another."""
        if state["last_win"].shape != (self.out_dim,):
            raise ValueError(
                f"state holds {len(state['last_win'])} components and this monitor {self.out_dim}: "
                "build it with the out_dim of the run that was saved"
            )
        self._images, self._last_win = state["images"], state["last_win"]
        self._first, self._recent = dict(state["first"]), [dict(seen) for seen in state["recent"]]


def _compare(student: nn.Module, teacher: nn.Module) -> tuple[float, float, bool]:
    """Distance of the weights, a number that moves with the student's, and whether the memory is the same."""
    pairs = list(zip(student.parameters(), teacher.parameters(), strict=True))
    shared = any(s.numel() > 0 and s.data_ptr() == t.data_ptr() for s, t in pairs)
    wide = [torch.promote_types(s.dtype, torch.float32) for s, _ in pairs]
    squares = [(s.to(w) - t.to(w)).square().sum() for (s, t), w in zip(pairs, wide, strict=True)]
    norms = [torch.linalg.vector_norm(s, dtype=w) for (s, _), w in zip(pairs, wide, strict=True)]
    return float(torch.stack(squares).sum().sqrt()), float(torch.stack(norms).sum()), shared
