"""What a training step costs, counted before anything runs: parameters, tokens, floating-point operations, memory.

Operations are those of the matrix products, two for a multiplication and an addition. For a Vision Transformer they are
written down: an image of P patches makes N = P + 1 tokens, every weight matrix W of a block meets each of them, and
attention multiplies queries with keys and probabilities with values,

    forward = 2 P |W_patch| + 2 N sum_W |W| + blocks 4 N^2 dim,        backward = 2 forward - 2 P |W_patch|

since the gradient goes to both factors of every product, but not to the pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.first_pass import check_crops, reason
from vmflearn.train.methods import METHODS
from vmflearn.train.methods.base import Work
from vmflearn.train.state import DTYPES, build_model

CHUNK = 4096
"""Components that `prototype_loss` holds at a time."""


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one training step, for each image.

    Attributes
    ----------
    student_forward, student_backward : float
        Backbone, over all crops.
    teacher : float
        Backbone, over the two views that it sees.
    head : float
        Projection of both, forward and backward.
    prototypes : float
        Last layer of both, forward and backward.
    repeated : float
        What the step computes a second time, or beyond the last layer's own products, to save memory: probabilities
        of attention and logits in the backward pass, targets taken through the prototypes. Not part of `total`.
    """

    student_forward: float
    student_backward: float
    teacher: float
    head: float
    prototypes: float
    repeated: float

    @property
    def total(self) -> float:
        """Operations that the mathematics asks for: what model FLOP utilisation (MFU) is counted with."""
        return self.student_forward + self.student_backward + self.teacher + self.head + self.prototypes

    @property
    def executed(self) -> float:
        """Operations that a device does: `total` and `repeated`."""
        return self.total + self.repeated


def crop_sizes(config: Config) -> list[int]:
    """Sides of an image's crops in pixels, the teacher's views first."""
    return [crop.size for crop in METHODS[config.method.name].crops(config)]


def count_tokens(backbone: nn.Module, size: int) -> int | None:
    """Tokens that a plain Vision Transformer makes of an image of ``size`` pixels; None for another network."""
    vit: Any = backbone
    if not (
        isinstance(vit, VisionTransformer)
        and isinstance(vit.patch_embed, PatchEmbed)
        and all(isinstance(block, Block) and type(block.attn) is Attention for block in vit.blocks)
    ):
        return None
    high, wide = vit.patch_embed.dynamic_feat_size((size, size))
    return high * wide + vit.num_prefix_tokens


def count_operations(network: MultiCropNetwork, work: Work) -> Operations:
    """Count the operations of a step of `training_step`, for each image of the batch.

    Parameters
    ----------
    network : MultiCropNetwork
        Student or teacher, on any device, "meta" too. Its random state and its buffers are left alone.
    work : Work
        Passes and rows of the method.

    Returns
    -------
    Operations
        For a plain Vision Transformer from the formula above. The forward pass of another network is counted by
        PyTorch, and its backward pass taken for twice that. A row through a matrix is taken three times by the student
        (forward, and into both factors) and once by the teacher.
    """
    costs = {each: _backbone_operations(network.backbone, *each) for each in {*work.student, *work.teacher}}
    forward, backward, repeated = (sum(costs[each][i] for each in work.student) for i in range(3))
    matrices = [m for m in network.head.mlp if isinstance(m, nn.Linear)]
    layer = 2.0 * network.prototypes.out_dim * network.prototypes.bottleneck_dim
    return Operations(
        student_forward=forward,
        student_backward=backward,
        teacher=sum(costs[each][0] for each in work.teacher),
        head=2.0 * sum(m.weight.numel() for m in matrices) * (3 * work.student_rows + work.teacher_rows),
        prototypes=layer * (3 * work.student_scored + work.teacher_scored),
        repeated=repeated + layer * work.repeated + 2.0 * network.prototypes.out_dim * work.compared,
    )


def _backbone_operations(backbone: nn.Module, size: int, dropped: float) -> tuple[float, float, float]:
    """Forward, backward, and what fused attention repeats in the backward pass, for one image."""
    tokens, vit = count_tokens(backbone, size), backbone
    if tokens is None:
        parameter = next(vit.parameters())
        image = torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device)
        # With gradients: the counter fails without them where a layer takes a parameter as input (CaiT's class token).
        with evaluation_mode(vit), torch.enable_grad(), FlopCounterMode(display=False) as counter:
            vit(image)
        return counter.get_total_flops(), 2.0 * counter.get_total_flops(), 0.0
    blocks: Any = vit.blocks
    n_patches = tokens - cast(int, vit.num_prefix_tokens)
    patches = 2.0 * n_patches * vit.patch_embed.proj.weight.numel()  # type: ignore[union-attr, operator]
    tokens -= n_patches - math.floor(n_patches * (1 - dropped))
    weights = sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Linear))
    product = sum(2.0 * tokens**2 * block.attn.num_heads * block.attn.head_dim for block in blocks)
    forward = patches + 2.0 * tokens * weights + 2 * product
    fused = all(block.attn.fused_attn for block in blocks)
    return forward, 2 * forward - patches, product if fused else 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds at the height of a step.

    Attributes
    ----------
    weights : int
        Student, its gradients, AdamW's two moments, and the teacher.
    activations : int
        What the student's backbone and projection keep for the backward pass.
    last_layer : int
        Teacher's logits and targets, and the chunk of logits that `prototype_loss` works on.
    crops : int
    """

    weights: int
    activations: int
    last_layer: int
    crops: int

    @property
    def total(self) -> int:
        """All of them; what kernels need beside them, and fragments of freed memory, come on top."""
        return self.weights + self.activations + self.last_layer + self.crops


@dataclass(frozen=True)
class Cost:
    """What a configuration costs.

    Attributes
    ----------
    backbone, head : int
        Parameters of the student, prototypes' among the head's.
    trained : int
        Parameters that learn.
    student_tokens, teacher_tokens : int or None
        Tokens an image, over its crops; None where the backbone has none.
    operations : Operations
        For each image.
    memory : Memory
        Of each process.
    """

    backbone: int
    head: int
    trained: int
    student_tokens: int | None
    teacher_tokens: int | None
    operations: Operations
    memory: Memory


def count_cost(config: Config, processes: int = 1) -> Cost:
    """Count what a configuration costs, without allocating the network or touching data.

    Parameters
    ----------
    config : Config
    processes : int
        Among which a batch is divided.

    Raises
    ------
    ConfigError
        If the network cannot be built, does not take the crops, or cannot be counted.
    """
    sizes = crop_sizes(config)
    with torch.device("meta"):
        network = build_model(config, drop_path=config.model.drop_path)
    check_crops(config, network.backbone)
    parameters = list(network.parameters())
    try:
        work = METHODS[config.method.name].work(config, network)
        operations = count_operations(network, work)
        memory = _memory(config, network, work, sizes, -(-config.optimizer.batch_size // processes))
    except Exception as error:  # timm's networks are built for real devices, and some count on one
        raise ConfigError(
            f"model.backbone={config.model.backbone} takes the crops, and what it costs cannot be counted without "
            f"building it ({reason(error)}); start it without a dry run"
        ) from None
    return Cost(
        backbone=sum(p.numel() for p in network.backbone.parameters()),
        head=sum(p.numel() for p in network.head.parameters()),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        student_tokens=_tokens(network.backbone, work.student),
        teacher_tokens=_tokens(network.backbone, work.teacher),
        operations=operations,
        memory=memory,
    )


def _tokens(backbone: nn.Module, passes: Sequence[tuple[int, float]]) -> int | None:
    """Tokens an image, over its passes."""
    total = 0
    for size, dropped in passes:
        tokens = count_tokens(backbone, size)
        if tokens is None:
            return None
        patches = tokens - cast(int, backbone.num_prefix_tokens)
        total += tokens - patches + math.floor(patches * (1 - dropped))
    return total


def _memory(config: Config, network: MultiCropNetwork, work: Work, sizes: Sequence[int], batch: int) -> Memory:
    part = -(-batch // config.optimizer.accumulation)  # the student takes its images part by part, the teacher's
    # logits are those of all of them
    item = DTYPES[config.run.precision].itemsize
    parameters = list(network.parameters())
    total, trained = (sum(p.numel() for p in some) for some in (parameters, [p for p in parameters if p.requires_grad]))
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors that have shapes and no content
        _empty(network)
        two, three = (_saved_bytes(config, network, sizes, n) for n in (2, 3))
    views, out_dim = len(work.teacher), config.head.out_dim
    rows = (len(work.student) + views) * part
    return Memory(
        weights=item * (2 * total + 3 * trained),
        activations=(three - two) * part,  # the difference leaves out what does not grow: weights in bfloat16
        # logits and targets of the views, targets of masked patches, and the student's chunk
        last_layer=round(item * (3 * views * batch + 2 * work.masked * batch) * out_dim)
        + item * rows * min(CHUNK, out_dim),
        crops=item * batch * sum(3 * size**2 for size in sizes),
    )


def _empty(network: nn.Module) -> None:
    """Give a network tensors on the CPU; `to_empty` cannot, under fake tensors, where layers are shared (CoaT)."""
    made: dict[int, Any] = {}
    for module in network.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    new = torch.empty_like(tensor, device="cpu")
                    made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if held is module._parameters else new
                held[name] = made[id(tensor)]


def _saved_bytes(config: Config, network: MultiCropNetwork, sizes: Sequence[int], batch: int) -> int:
    """Bytes that autograd saves in the student's forward pass."""
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes(), tensor  # the tensor, so that its storage's name is not given again
        return tensor

    crops = [torch.empty(batch, 3, size, size, dtype=DTYPES[config.run.precision]) for size in sizes]
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
        METHODS[config.method.name].rehearse(config, network, crops)
    return sum(size for size, _ in kept.values())
