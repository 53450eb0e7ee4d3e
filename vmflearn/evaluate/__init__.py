"""Evaluation: what a representation is worth when it is no longer trained."""

import importlib

_HOMES = {
    "colour_statistics": "features",
    "extract_features": "features",
    "pixel_features": "features",
    "Features": "extraction",
    "extract": "extraction",
    "few_shot_hits": "few_shot",
    "bootstrap_interval": "intervals",
    "knn_accuracy": "knn",
    "knn_predict": "knn",
    "knn_votes": "knn",
    "LinearSweep": "linear",
    "logistic_path": "logistic",
    "Model": "model",
    "load_model": "model",
    "nearest": "neighbours",
    "assign": "prototypes",
    "describe_largest": "prototypes",
    "precision_percentiles": "prototypes",
    "utilization": "prototypes",
    "last_blocks": "readouts",
    "Report": "report",
    "open_splits": "splits",
    "cross_validation": "transfer",
    "Whitening": "copies",
    "copy_descriptors": "copies",
    "copy_scores": "copies",
    "FineTuning": "finetune",
    "patch_labels": "propagation",
    "pixel_mask": "propagation",
    "propagate_labels": "propagation",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "average_precision": "retrieval",
    "precision_at": "retrieval",
    "rank_images": "retrieval",
    "revisited_scores": "retrieval",
    "scale_features": "scales",
    "boundary_accuracy": "segmentation",
    "mean_over_objects": "segmentation",
    "region_similarity": "segmentation",
    "sequence_scores": "segmentation",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
