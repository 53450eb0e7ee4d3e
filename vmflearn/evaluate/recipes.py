"""Recipes for fine-tuning a Vision Transformer, as DINO, iBOT and DINO-vMF were fine-tuned.

Small data sets take DeiT's recipe for transfer (Touvron et al., 2021), ImageNet BEiT's with layer-wise decay of the
learning rate (Bao et al., 2021), each with the settings of iBOT's published scripts.
"""

from dataclasses import dataclass, fields

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning does.

    Attributes
    ----------
    epochs : int
    batch : int
        Images of a step, over all processes.
    lr : float
        Peak learning rate for `lr_batch` images a step; it grows in proportion to `batch`. With ``lr_batch=0`` it is
        taken as it is.
    lr_batch : int
    min_lr, warmup_lr : float
        Where the cosine ends and the linear warm-up begins; neither grows with the batch.
    warmup_epochs : int
    weight_decay : float
        AdamW's; biases, norms, class token and positions are spared.
    layer_decay : float
        Factor of the learning rate from the classifier to the last block, and from each block to the one below; 1 for
        none. timm counts the final norm with the last block, where BEiT's code counts it with the classifier.
    drop_path : float
        Stochastic depth of the last block.
    mixup, cutmix : float
        Parameters of their beta distributions; 0 for none.
    smoothing : float
        Of labels.
    auto_augment : str
        timm's name of a policy; "" for none.
    erase : float
        Probability that a rectangle is filled with noise.
    repeats : int
        Copies of an image in an epoch's order, of which an epoch sees as many as there are images (repeated
        augmentation).
    head_std : float
        Standard deviation of the new classifier's weights.
    """

    epochs: int
    batch: int
    lr: float
    lr_batch: int
    min_lr: float
    warmup_lr: float
    warmup_epochs: int
    weight_decay: float
    layer_decay: float
    drop_path: float
    mixup: float
    cutmix: float
    smoothing: float
    auto_augment: str
    erase: float
    repeats: int
    head_std: float

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and not value >= 0:
                raise ValueError(f"{field.name} must not be negative, got {value}")
        if not self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        for name in ("drop_path", "smoothing", "erase"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")

    @property
    def peak_lr(self) -> float:
        """The learning rate at the end of the warm-up."""
        return self.lr * self.batch / self.lr_batch if self.lr_batch else self.lr


_DEIT = Recipe(
    epochs=1000,
    batch=768,
    lr=7.5e-6,
    lr_batch=512,
    min_lr=1e-5,  # above `lr`, and a little below what 768 images make of it: in effect the rate is constant
    warmup_lr=1e-6,
    warmup_epochs=5,
    weight_decay=0.05,
    layer_decay=1.0,
    drop_path=0.1,
    mixup=0.8,
    cutmix=1.0,
    smoothing=0.1,
    auto_augment=RAND_AUGMENT,
    erase=0.25,
    repeats=3,
    head_std=0.02,
)


def _beit(epochs: int, drop_path: float, layer_decay: float) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch=1024,
        lr=1e-3,
        lr_batch=0,
        min_lr=1e-6,
        warmup_lr=1e-6,
        warmup_epochs=20,
        weight_decay=0.05,
        layer_decay=layer_decay,
        drop_path=drop_path,
        mixup=0.8,
        cutmix=1.0,
        smoothing=0.1,
        auto_augment=RAND_AUGMENT,
        erase=0.25,
        repeats=1,
        head_std=2e-5,
    )


RECIPES = {
    "deit": _DEIT,
    "beit-small": _beit(200, 0.1, 0.75),
    "beit-base": _beit(100, 0.2, 0.65),
    "beit-large": _beit(50, 0.4, 0.75),
}
"""By name. The paper's ImageNet figures are the best of the learning rates 8e-4, 9e-4, 1e-3 and 2e-3."""
