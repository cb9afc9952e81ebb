"""What a device holds of every part: weights, those that train, optimizer states.

Counted over the tensors of the model on the meta device; tensor parallelism divides those that the
modules' own plans name, and leaves the others whole on each device.
"""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mm1_hf.model.configuration_mm1 import MM1Config
from mm1_hf.planning.parameters import build_on_meta, part_modules

Precision = Literal["fp32", "autocast", "bf16", "bf16_master"]
Optimizer = Literal["adamw", "adamw_8bit", "adafactor"]
Sharding = Literal["none", "ddp", "fsdp", "zero3"]

# Elements that share a scale in 8-bit AdamW, and below which a tensor's states stay in fp32.
# Source: bitsandbytes' defaults.
_BLOCK_8BIT, _SMALLEST_8BIT = 256, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """Bytes per number under one precision.

    Attributes:
        weight: Dtype of the weights that compute.
        autocast: Dtype of `torch.autocast`, if it is on.
        master: Bytes of a separate fp32 copy of each trained weight, or 0.
        state: Bytes of one number of the optimizer's state.
    """

    weight: torch.dtype
    autocast: torch.dtype | None = None
    master: int = 0
    state: int = 4

    @property
    def compute(self) -> torch.dtype:
        """Dtype of matrix products and of what they keep."""
        return self.autocast or self.weight


# "autocast": fp32 weights, computed in bf16, as `TrainingArguments(bf16=True)` does. "bf16":
# everything in bf16, as a model loaded in bf16 trains with PyTorch's optimizers. "bf16_master":
# bf16 weights and gradients with an fp32 copy, as DeepSpeed and Megatron do.
PRECISIONS: dict[str, Bytes] = {
    "fp32": Bytes(weight=torch.float32),
    "autocast": Bytes(weight=torch.float32, autocast=torch.bfloat16),
    "bf16": Bytes(weight=torch.bfloat16, state=2),
    "bf16_master": Bytes(weight=torch.bfloat16, master=4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model lies on devices.

    Attributes:
        devices: Devices in all.
        sharding: `"none"` and `"ddp"` keep all on every device; `"fsdp"` and `"zero3"` divide
            weights, gradients and optimizer states among the data-parallel devices.
        tensor_parallel: Devices that share one sequence, by the modules' tensor-parallel plans.

    Raises:
        ValueError: If the numbers do not divide.
    """

    devices: int = 1
    sharding: Sharding = "none"
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        if self.devices < 1 or self.tensor_parallel < 1 or self.devices % self.tensor_parallel:
            raise ValueError(
                f"{self.devices} devices cannot be divided into groups of {self.tensor_parallel} "
                "for tensor parallelism: devices must be a multiple of tensor_parallel."
            )
        if self.sharding == "none" and self.data_parallel > 1:
            raise ValueError(
                f"{self.data_parallel} data-parallel devices need a sharding: 'ddp' (a whole model "
                "on each), 'fsdp' or 'zero3'."
            )

    @property
    def data_parallel(self) -> int:
        """Groups of devices that read different sequences."""
        return self.devices // self.tensor_parallel

    @property
    def shards(self) -> int:
        """Pieces that weights, gradients and states are divided into by data parallelism."""
        return self.data_parallel if self.sharding in ("fsdp", "zero3") else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one device of a tensor-parallel group holds of a part, before sharding.

    Attributes:
        weights: Weights.
        trained: Those of them that train.
        states: Bytes of the optimizer's states.
        layered: Weights inside of layers.
        largest_layer: Weights of the largest layer.
        largest_trained: Weights of the largest tensor that trains.
    """

    weights: float
    trained: float
    states: float
    layered: float
    largest_layer: float
    largest_trained: float


def count_holdings(
    config: MM1Config,
    *,
    optimizer: Optimizer,
    bytes_: Bytes,
    layout: Layout,
    frozen: Collection[str],
) -> dict[str, Holding]:
    """Count what a device holds, part by part; a tied head belongs to the decoder alone."""
    model = build_on_meta(config)
    modules = part_modules(model)
    for name in frozen:
        modules[name].requires_grad_(False)
    divided = _divided_parameters(model)
    counted: set[int] = set()
    holdings = {}
    for part, module in modules.items():
        layer_of = {
            id(parameter): index
            for index, layer in enumerate(module.modules())
            if isinstance(layer, GradientCheckpointingLayer)
            for parameter in layer.parameters()
        }
        layers: dict[int | None, float] = defaultdict(float)
        trained: list[float] = []
        states = 0.0
        for parameter in module.parameters():
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            share = 1 / layout.tensor_parallel if id(parameter) in divided else 1.0
            layers[layer_of.get(id(parameter))] += parameter.numel() * share
            if parameter.requires_grad:
                trained.append(parameter.numel() * share)
                states += share * state_bytes(parameter, optimizer=optimizer, size=bytes_.state)
        outside = layers.pop(None, 0.0)
        holdings[part] = Holding(
            weights=sum(layers.values()) + outside,
            trained=sum(trained),
            states=states,
            layered=sum(layers.values()),
            largest_layer=max(layers.values(), default=0.0),
            largest_trained=max(trained, default=0.0),
        )
    return holdings


def state_bytes(parameter: torch.Tensor, *, optimizer: Optimizer, size: int) -> float:
    """Bytes that an optimizer remembers of a tensor.

    AdamW keeps two moments of every number; in 8 bits, two bytes and the scales of its blocks.
    Adafactor without momentum keeps one number per row and column of a matrix, in fp32.

    Raises:
        ValueError: If the optimizer is unknown.

    Source: AdaFactor, arXiv 1804.04235; 8-bit optimizers, arXiv 2110.02861.
    """
    count = parameter.numel()
    if optimizer == "adamw":
        return 2 * size * count
    if optimizer == "adamw_8bit":
        return 2 * count * (1 + 4 / _BLOCK_8BIT if count >= _SMALLEST_8BIT else 4)
    if optimizer == "adafactor":
        if parameter.ndim < 2:
            return 4 * count
        return 4 * (count / parameter.shape[-1] + count / parameter.shape[-2])
    raise ValueError(
        f"optimizer is {optimizer!r}, but it must be 'adamw', 'adamw_8bit' or 'adafactor'."
    )


def _divided_parameters(model: nn.Module) -> set[int]:
    """Identities of the tensors that the modules' tensor-parallel plans divide."""
    patterns = (
        re.escape(name).replace(r"\*", r"\d+")
        for name, style in (getattr(model, "tp_plan", None) or {}).items()
        if not style.startswith("replicated")
    )
    planned = re.compile("|".join(patterns) or r"(?!)")
    return {
        id(parameter)
        for name, parameter in model.named_parameters()
        if planned.fullmatch(name) or planned.fullmatch(name.rpartition(".")[0])
    }


__all__ = [
    "PRECISIONS",
    "Bytes",
    "Holding",
    "Layout",
    "Optimizer",
    "Precision",
    "Sharding",
    "count_holdings",
    "state_bytes",
]
