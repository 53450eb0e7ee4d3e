"""Everything that training changes: student, teacher, centre, optimiser, what watches them, and the step."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from vmflearn import distributed
from vmflearn.backbones.creation import attend_with_matrix, compile_blocks, create_backbone
from vmflearn.backbones.stochastic_depth import SubsetBlock
from vmflearn.monitor.collapse import Monitor
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.train.checkpoints.checkpoint import BrokenCheckpointError, CheckpointError
from vmflearn.train.checkpoints.parts import unlike, unlike_moments
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.first_pass import check_crops, reason
from vmflearn.train.input.loader import make_loader
from vmflearn.train.knn_probe import KNNProbe
from vmflearn.train.linear_probe import LinearProbe
from vmflearn.train.methods import METHODS
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.runs.same_images import changed, describe

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Type of the parameters; with ``bfloat16`` the products run in it under autocast, the parameters stay float32."""


class Pending(TypedDict):
    """A line of the records that an evaluation has yet to complete; findings as (name, text)."""

    metrics: dict[str, Any]
    timing: dict[str, float]
    findings: list[tuple[str, str]]


def build_model(config: Config, *, drop_path: float = 0.0) -> MultiCropNetwork:
    """Backbone and head of a configuration, freshly initialised from torch's current random state.

    Raises
    ------
    ConfigError
        If there is no such backbone, or its options do not fit.
    """
    try:
        backbone = create_backbone(
            config.model.backbone,
            drop_path_rate=drop_path,
            position_interpolation=config.model.position_interpolation,
            **config.model.options,
        )
        if config.model.stochastic_depth == "subset":
            SubsetBlock.adopt(backbone)
    except Exception as error:  # options are timm's, and what does not fit fails in any way whatever
        raise ConfigError(
            f"model.backbone={config.model.backbone}, model.options={config.model.options}: {reason(error)}"
        ) from None
    features = backbone.num_features
    assert isinstance(features, int)
    head = DINOHead(
        features,
        config.head.out_dim,
        config.head.normalization,
        hidden_dim=config.head.hidden_dim,
        bottleneck_dim=config.head.bottleneck_dim,
        n_layers=config.head.n_layers,
        batch_norm=config.head.batch_norm,
        learn_magnitudes=config.head.learn_magnitudes,
    )
    try:
        network = METHODS[config.method.name].network(config, backbone, head)
    except ValueError as error:
        raise ConfigError(
            f"method.name={config.method.name}, model.backbone={config.model.backbone}: {error}"
        ) from None
    return network.to(DTYPES[config.run.precision])


class State:
    """Everything that training changes, and what it is made of.

    Attributes
    ----------
    step : int
        Steps taken.
    best : float
        Highest kNN accuracy so far.
    recorded : int
        The last step with a line in the records.
    pending : dict or None
        The line of the step just taken, where an evaluation belongs into it that has not been made: ``metrics``,
        ``timing``, and ``findings`` (name and text of each).
    images : dict
        What tells these images from others, see `describe`.
    seen : dict
        The same, with the validation images: what all processes must have alike.
    """

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device, self.step, self.best = config, device, 0, -1.0
        self._settings = config.to_dict()
        self.recorded = 0
        self.pending: Pending | None = None
        self.loader = make_loader(config, METHODS[config.method.name].crops(config), device)
        self.steps_per_epoch = self.loader.order.steps_per_epoch
        self.total = self.steps_per_epoch * config.run.epochs
        self.last = min(self.total, config.run.max_steps) if config.run.max_steps else self.total
        student = build_model(config, drop_path=config.model.drop_path).to(device)
        check_crops(config, student.backbone)
        self.probe = KNNProbe(config, device) if config.data.labelled else None
        self.linear = self._linear_probe(student) if self.probe is not None else None
        teacher = build_model(config).to(device).requires_grad_(False)
        teacher.load_state_dict(student.state_dict())
        if distributed.is_distributed() and device.type == "cuda":  # torch has no synchronised batch norm on the CPU
            # timm's converter, which keeps the activations that timm's own batch norms hold.
            student, teacher = map(convert_sync_batchnorm, (student, teacher))
        if device.type == "cpu" and config.run.precision == "bfloat16":
            attend_with_matrix(student.backbone)
            attend_with_matrix(teacher.backbone)
        if config.run.compile:
            try:
                compile_blocks(student.backbone)
                compile_blocks(teacher.backbone)
            except ValueError as error:
                raise ConfigError(f"run.compile=true: {error}") from None
        self.method = METHODS[config.method.name].create(config, student, teacher)
        for centering in self.method.centerings().values():
            centering.to(device, DTYPES[config.run.precision])
        self.optimizer = make_optimizer(
            student,
            decay_magnitudes=config.optimizer.decay_magnitudes,
            undecayed=self.method.undecayed,
            # In float32 the gain is one percent, and the book's stored runs would end in other last digits.
            fused=config.run.precision == "bfloat16",
        )
        self.monitor = Monitor(config.head.out_dim, teacher_lags=self.method.teacher_lags, cures=self.method.cures)
        self.images = describe(self.loader, self.probe.train_labels if self.probe is not None else None)
        self.seen = self.images if self.probe is None else {**self.images, **self.probe.described}

    @property
    def student(self) -> MultiCropNetwork:
        """The network that learns."""
        return self.method.student

    @property
    def teacher(self) -> MultiCropNetwork:
        """The network that follows it."""
        return self.method.teacher

    def _linear_probe(self, student: MultiCropNetwork) -> LinearProbe | None:
        """A linear classifier on the teacher's features, where there are classes to tell apart."""
        assert self.probe is not None
        labels, features = self.probe.train_labels, student.backbone.num_features
        assert isinstance(features, int)
        n_classes = int(labels.max()) + 1
        dtype = DTYPES[self.config.run.precision]
        return LinearProbe(labels, n_classes, features, self.device, dtype) if n_classes > 1 else None

    def evaluate(self, look: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Accuracies of the teacher's features on the labelled images; empty where there are none.

        Parameters
        ----------
        look : callable
            Called again and again, equally often on every process; what it raises ends the evaluation.

        Returns
        -------
        dict of float
            ``knn_top1`` and, with two classes or more, ``linear_top1``, of the classifier that learns beside the run.
        """
        if self.probe is None:
            return {}
        features, labels = self.probe.features(self.teacher.backbone, look)
        found = {"knn_top1": self.probe.knn(features, labels, look)}
        if self.linear is not None:
            found["linear_top1"] = self.linear.accuracy(features[1], labels[1])
        return found

    def _parts(self) -> dict[str, Any]:
        """Everything with a state of its own, by its name in the checkpoint."""
        parts: dict[str, Any] = {"student": self.student, "teacher": self.teacher, **self.method.centerings()}
        parts |= {"optimizer": self.optimizer, "monitor": self.monitor, "linear": self.linear}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {
            "step": self.step,
            "best": self.best,
            "recorded": self.recorded,
            "pending": self.pending,
            "images": self.loader.order.n_images,
            "described": self.images,
            "processes": distributed.world_size(),
            "config": self._settings,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same configuration.

        Raises
        ------
        CheckpointError
            If the images are others.
        BrokenCheckpointError
            If a part is missing, or not of the type and shape that it should have; nothing has been changed then.
        """
        images, others = self.loader.order.n_images, changed(saved.get("described", {}), self.images)
        if saved["images"] != images or others:
            now = f"there are {images} now" if saved["images"] != images else f"{' and '.join(others)} have changed"
            raise CheckpointError(
                f"the checkpoint was made with {saved['images']} images, and {now}; give the same images, or another "
                "run folder with --run-dir"
            )
        parts = self._parts()
        if "linear" not in saved and not _labelled(saved["config"]):
            parts.pop("linear", None)  # data.val_root has been given since
        for name, part in parts.items():
            fault = unlike(part.state_dict(), saved.get(name), name)
            if not fault and isinstance(part, nn.Module):
                strange = saved[name].keys() - part.state_dict().keys()
                fault = f"{name} holds {min(strange)}, which is none of its weights" if strange else ""
            if not fault and name == "optimizer":
                fault = unlike_moments(self.optimizer, saved[name], name)
            if not fault and name == "monitor" and not all(isinstance(seen, dict) for seen in saved[name]["recent"]):
                fault = "monitor.recent holds something else than observations"
            if not fault and name == "linear":
                fault = unlike_moments(part.optimizer, saved[name]["optimizer"], "linear.optimizer")
            if fault:
                raise BrokenCheckpointError(fault)
        self.step, self.best = saved["step"], saved["best"]
        self.recorded, self.pending = saved.get("recorded", 0), saved.get("pending")
        for name, part in parts.items():
            part.load_state_dict(saved[name])


def _labelled(config: Mapping[str, Any]) -> bool:
    """`DataConfig.labelled` of a saved configuration."""
    data = config.get("data", {})
    return data.get("source", "photos") == "photos" or bool(data.get("val_root") or data.get("val_split"))
