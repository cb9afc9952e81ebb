"""Memory of one device in training and in generation, from the configuration.

Weights, gradients and optimizer states are counted; what a forward keeps is traced
(`activations`); the peak is found by walking through a step: the loss, the backward through
decoder, connector and tower, in which gradients take the place of activations, and the optimizer's
step.

Tests hold the estimate to 15 % of the measured peak of steps on a CPU. Sharding is arithmetic on
top of that, and has not been measured. Not included: the framework's own memory (about a gigabyte
on an accelerator), fragmentation, and buffers of collectives.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedConfig

from mm1_hf.model.configuration_mm1 import MM1Config
from mm1_hf.planning.activations import PartActivations, trace_activations
from mm1_hf.planning.flops import Recompute, attention_windows
from mm1_hf.planning.holdings import (
    PRECISIONS,
    Bytes,
    Holding,
    Layout,
    Optimizer,
    Precision,
    count_holdings,
)
from mm1_hf.planning.parameters import PARTS

# What the backward through one layer needs beside what the layer keeps, as a share of that: the
# gradients on their way. Measured on decoder layers of several shapes, 0.2 to 0.26.
_BACKWARD_SHARE = 0.25

# Hidden states of a layer that tensor parallelism leaves whole on each device: the inputs of its
# two norms and of its two branches. Our estimate.
_WHOLE_STATES_PER_LAYER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device in training.

    Not all of them exist at once, so `peak` is less than their sum.

    Attributes:
        weights: The weights that compute.
        master_weights: A separate fp32 copy of the trained ones, if the precision has one.
        optimizer_states: What the optimizer remembers.
        gradients: Gradients of the trained weights.
        activations: What a forward keeps for its backward.
        logits: The loss: one chunk of logits and the hidden states of supervised positions.
        gathered: Whole layers that FSDP or ZeRO-3 put together for their turn.
        peak: The most that exists at once in a step.
    """

    weights: int
    master_weights: int
    optimizer_states: int
    gradients: int
    activations: int
    logits: int
    gathered: int
    peak: int

    def to_dict(self) -> dict[str, int]:
        """The bytes as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMemory:
    """Bytes on one device in generation: `weights`, and the `cache` of keys and values."""

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.cache


def training_memory(
    config: MM1Config,
    *,
    num_tiles: int,
    num_sequences: int = 1,
    sequence_length: int = 4096,
    num_supervised: int | None = None,
    precision: Precision = "autocast",
    optimizer: Optimizer = "adamw",
    layout: Layout | None = None,
    frozen: Collection[str] = (),
    recompute: Recompute = "nothing",
    accumulation: int = 1,
    tile_size: tuple[int, int] | None = None,
    logit_rows: int = 2048,
) -> TrainingMemory:
    """Estimate the memory of one device in training.

    Args:
        config: The model.
        num_tiles: Tiles that a device sees at once.
        num_sequences: Sequences that a device sees at once.
        sequence_length: Tokens of each, visual tokens included.
        num_supervised: Positions with a label; `None` means all that are no visual tokens.
        precision: A key of `PRECISIONS`.
        optimizer: `"adamw"`, `"adamw_8bit"` (bitsandbytes) or `"adafactor"` (without momentum).
        layout: How the model lies on devices; `None` means on one.
        frozen: Names of `PARTS` that are not trained.
        recompute: `"layers"` means gradient checkpointing.
        accumulation: Forwards per optimizer step; with more than one, gradients stay while new
            activations come.
        tile_size: Height and width of a tile in pixels; `None` means the tower's own.
        logit_rows: Positions whose logits exist at once: the default is the model's on
            accelerators; on CPUs it takes fewer.

    Raises:
        ValueError: If a name is unknown or the tiles make more tokens than there are.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, but it must be one of {list(PRECISIONS)}.")
    bytes_, layout = PRECISIONS[precision], layout or Layout()
    num_tokens = num_sequences * sequence_length
    num_visual = num_tiles * config.num_image_tokens
    if num_visual > num_tokens:
        raise ValueError(
            f"{num_tiles} tiles make {num_visual} visual tokens, but {num_sequences} sequences of "
            f"{sequence_length} have only {num_tokens} positions."
        )
    supervised = num_tokens - num_visual if num_supervised is None else num_supervised
    # FSDP casts the layers that it gathers, so autocast keeps no copies of weights of its own.
    casts_layers = layout.shards > 1 and bytes_.autocast is not None
    traced = trace_activations(
        config,
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        num_tiles=num_tiles,
        dtype=bytes_.compute if casts_layers else bytes_.weight,
        autocast=None if casts_layers else bytes_.autocast,
        frozen=frozen,
        tile_size=tile_size,
    )
    parts = count_holdings(config, optimizer=optimizer, bytes_=bytes_, layout=layout, frozen=frozen)
    text = config.text_config
    assert isinstance(text, PreTrainedConfig)
    logits = 4 * min(supervised, logit_rows) * text.vocab_size // layout.tensor_parallel
    return _walk(
        parts,
        {name: _divided(part, layout.tensor_parallel) for name, part in traced.items()},
        logits=logits + 2 * supervised * text.hidden_size * bytes_.compute.itemsize,
        bytes_=bytes_,
        layout=layout,
        recompute=recompute,
        holds_gradients=accumulation > 1 or layout.sharding == "ddp",
    )


def generation_memory(
    config: MM1Config,
    *,
    num_sequences: int = 1,
    sequence_length: int = 4096,
    dtype: torch.dtype = torch.bfloat16,
    tensor_parallel: int = 1,
) -> GenerationMemory:
    """Estimate the memory of generation: weights, and keys and values of `num_sequences` sequences.

    Args:
        config: The model.
        num_sequences: Sequences at once.
        sequence_length: Tokens of each, visual and generated ones included.
        dtype: Dtype of weights and cache.
        tensor_parallel: Devices that share the work.
    """
    parts = count_holdings(
        config,
        optimizer="adamw",
        bytes_=Bytes(weight=dtype),
        layout=Layout(devices=tensor_parallel, tensor_parallel=tensor_parallel),
        frozen=PARTS,
    )
    text = config.text_config
    assert isinstance(text, PreTrainedConfig)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    heads = max(heads // tensor_parallel, 1)
    positions = sum(
        sequence_length if window is None else min(window, sequence_length)
        for window in attention_windows(text)
    )
    return GenerationMemory(
        weights=round(sum(part.weights for part in parts.values())) * dtype.itemsize,
        cache=2 * heads * width * positions * num_sequences * dtype.itemsize,
    )


def _walk(
    parts: dict[str, Holding],
    activations: dict[str, PartActivations],
    *,
    logits: int,
    bytes_: Bytes,
    layout: Layout,
    recompute: Recompute,
    holds_gradients: bool,
) -> TrainingMemory:
    """Walk through a step and note the most that exists at once."""
    weight = bytes_.weight.itemsize
    compute = bytes_.compute.itemsize

    def over_shards(count: float, size: int) -> int:
        return round(count * size / layout.shards)

    def kept(part: PartActivations) -> int:
        return part.checkpointed if recompute == "layers" else part.whole

    gradients = {name: over_shards(part.trained, weight) for name, part in parts.items()}
    weights = over_shards(sum(part.weights for part in parts.values()), weight)
    master = over_shards(sum(part.trained for part in parts.values()), bytes_.master)
    states = over_shards(sum(part.states for part in parts.values()), 1)
    gathered = 0
    if layout.shards > 1:
        # Two layers, as the next one comes while one computes; all that is in no layer; and the
        # whole gradients of a layer and of the rest before they are scattered.
        layer = max(part.largest_layer for part in parts.values())
        rest = sum(part.weights - part.layered for part in parts.values())
        gathered = round((2 * layer + rest + layer + rest) * compute)

    remaining = {name: kept(part) for name, part in activations.items()}
    # The loss makes the head's gradient together with its value, in fp32.
    head = round(parts["lm_head"].trained * 4)
    arrived = sum(gradients.values()) if holds_gradients else 0
    moments = [sum(remaining.values()) + logits + head + arrived]
    arrived = arrived or gradients["lm_head"]
    for name in reversed(PARTS[:-1]):
        recomputed = activations[name].largest_layer if recompute == "layers" else 0
        on_the_way = round(recomputed * (1 + _BACKWARD_SHARE))
        moments.append(sum(remaining.values()) + on_the_way + arrived)
        del remaining[name]
        if not holds_gradients:
            arrived += gradients[name]
    # The optimizer's own numbers for one tensor at a time; fused kernels need none.
    largest = max(part.largest_trained for part in parts.values())
    moments.append(arrived + over_shards(2 * largest, bytes_.state))
    return TrainingMemory(
        weights=weights,
        master_weights=master,
        optimizer_states=states,
        gradients=sum(gradients.values()),
        activations=sum(kept(part) for part in activations.values()),
        logits=logits,
        gathered=gathered,
        peak=weights + master + states + gathered + max(moments),
    )


def _divided(part: PartActivations, tensor_parallel: int) -> PartActivations:
    """What a device of a tensor-parallel group keeps; what is in no layer stays whole."""
    if tensor_parallel == 1:
        return part
    layers = []
    for layer, states in zip(part.layers, part.inputs, strict=True):
        whole = min(layer, _WHOLE_STATES_PER_LAYER * states)
        layers.append(whole + (layer - whole) // tensor_parallel)
    return PartActivations(layers=tuple(layers), inputs=part.inputs, rest=part.rest)


__all__ = ["GenerationMemory", "TrainingMemory", "generation_memory", "training_memory"]
