"""Watch a run for collapse, and name what went wrong with the usual cures."""

import math
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

    Raises
    ------
    ValueError
        For a number that is too small.
    """

    def __init__(self, out_dim: int, window: int = 16384, *, teacher_lags: bool = True) -> None:
        if out_dim < 2:
            raise ValueError(f"out_dim must be at least 2, got {out_dim}: one component has nothing to choose")
        if window < 1:
            raise ValueError(f"window must be at least 1 image, got {window}")
        self.out_dim, self.window, self.teacher_lags = out_dim, window, teacher_lags
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

        Returns
        -------
        dict of float
            ``teacher_entropy``, ``teacher_information``, ``kl``, ``loss_to_ln_k``, ``feature_std``,
            ``feature_variance``, ``teacher_y_variance``, ``feature_rank``, ``components_used``, ``ema_distance``, and
            with prototypes ``void_prototypes`` (share) and `prototype_statistics`. Empty if something is not finite.
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
        seen = metrics | hidden
        self._first = self._first or seen
        self._recent = [*self._recent, seen][-PATIENCE:]
        return metrics

    def findings(self) -> list[Finding]:
        """What is wrong now, by the latest observations; an empty list if nothing is."""
        found = [] if self._not_finite is None else [self._not_finite]
        if not self._recent:
            return found
        now, names = self._recent[-1], [self._name(seen) for seen in self._recent]
        patient = len(self._recent) == PATIENCE
        still = self.teacher_lags and patient and all(s["ema_distance"] == 0 for s in self._recent)
        if now["shared"] or (still and self._recent[0]["fingerprint"] != now["fingerprint"]):
            how = "they share their weights in memory" if now["shared"] else "the weights move, and stay exactly equal"
            evidence = f"{how}; EMA distance {now['ema_distance']:.3g}, KL {now['kl']:.3g}"
            found.append(Finding("student is teacher", evidence, CURES["student is teacher"]))
        if patient and now["step"] - self._first["step"] >= SETTLING:
            rise = now["teacher_entropy"] - self._recent[0]["teacher_entropy"]
            settled = names[0] != "constant output" or rise < 0.01 * math.log(self.out_dim)
            if names[0] and len(set(names)) == 1 and settled:
                found.append(Finding(names[0], self._evidence(now), CURES[names[0]]))
            if self._images >= self.window and all(s.get("void_prototypes", 0) >= 0.1 for s in self._recent):
                evidence = (
                    f"{now['void_prototypes']:.0%} of the prototypes point away from the mean of y and won none of the "
                    f"last {self.window} views"
                )
                found.append(Finding("void prototypes", evidence, CURES["void prototypes"]))
        return found

    def _name(self, seen: dict[str, float]) -> str:
        """The collapse that one observation looks like, or nothing."""
        if seen["images"] < FEWEST_IMAGES:
            return ""
        ln_k, entropy = math.log(self.out_dim), seen["teacher_entropy"]
        share = 1e-2 if seen["teacher_temp"] >= seen["student_temp"] else 1e-6
        gone = seen["teacher_y_variance"] < max(1e-12, share * self._first["teacher_y_variance"])
        if entropy > 0.97 * ln_k:
            if gone:
                return "uniform output"
            return "temperature too high" if seen["teacher_temp"] >= seen["student_temp"] else ""
        possible = min(ln_k - entropy, math.log(seen["images"]))
        independent = seen["teacher_information"] < 0.05 * possible
        return "constant output" if independent and (gone or entropy < 0.75 * ln_k) else ""

    def _evidence(self, seen: dict[str, float]) -> str:
        return (
            f"step {seen['step']:.0f}, teacher entropy {seen['teacher_entropy']:.3g} of ln K = "
            f"{math.log(self.out_dim):.3g}, information {seen['teacher_information']:.2g} nats over "
            f"{seen['images']:.0f} images, variance of y {seen['teacher_y_variance']:.2g} "
            f"({self._first['teacher_y_variance']:.2g} at the start), loss {seen['loss_to_ln_k']:.3f} ln K, "
            f"temperatures {seen['teacher_temp']:g} (teacher) and {seen['student_temp']:g} (student)"
        )

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
