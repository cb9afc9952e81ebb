"""What a forward keeps for its backward, found by running the model on fake tensors.

A fake tensor has shape, dtype and autograd history but no memory, so a step of a 30B model is
traced in seconds on any machine, and what autograd keeps is read off instead of being guessed:
every tower, decoder, freezing and precision is right, and stays right when the code changes.

What is traced are PyTorch's CPU kernels and fused attention. Fused kernels of accelerators keep no
more, often less; plain ("eager") attention keeps all pairs, which is not counted.
"""

import copy
from collections import defaultdict
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from mm1_hf.model.configuration_mm1 import MM1Config, image_height_width
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.planning.parameters import num_experts, part_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class PartActivations:
    """Bytes that one part keeps for its backward.

    Attributes:
        layers: For each layer that can be checkpointed, in order.
        inputs: For each of them, the hidden states that enter it: what checkpointing keeps.
        rest: Everything outside of those layers.
    """

    layers: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    rest: int = 0

    @property
    def whole(self) -> int:
        """Bytes without checkpointing."""
        return sum(self.layers) + self.rest

    @property
    def checkpointed(self) -> int:
        """Bytes with checkpointing, outside of the layer that is being recomputed."""
        kept = (min(pair) for pair in zip(self.layers, self.inputs, strict=True))
        return sum(kept) + self.rest

    @property
    def largest_layer(self) -> int:
        """Bytes of the largest layer, which checkpointing brings back one at a time."""
        return max(self.layers, default=0)

    def times(self, count: int) -> "PartActivations":
        """The same `count` times."""
        return PartActivations(
            layers=tuple(size * count for size in self.layers),
            inputs=tuple(size * count for size in self.inputs),
            rest=self.rest * count,
        )


def trace_activations(
    config: MM1Config,
    *,
    num_sequences: int,
    sequence_length: int,
    num_tiles: int,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    frozen: Collection[str] = (),
    tile_size: tuple[int, int] | None = None,
) -> dict[str, PartActivations]:
    """Trace one forward in training mode up to the decoder's last hidden states.

    Args:
        config: The model.
        num_sequences: Sequences of the batch.
        sequence_length: Tokens of each, visual tokens included.
        num_tiles: Tiles of the whole batch.
        dtype: Dtype of the weights.
        autocast: Dtype of `torch.autocast`, if it is on.
        frozen: Names of `PARTS` that are not trained.
        tile_size: Height and width of a tile in pixels; `None` means the tower's own.

    Returns:
        For the vision tower, the connector and the decoder, what they keep.
    """
    vision = config.vision_config
    assert isinstance(vision, PreTrainedConfig)
    height, width = tile_size or image_height_width(vision)
    # PyTorch's grouped product of experts can be traced in bf16 only; what it keeps is scaled then.
    compute = autocast or dtype
    has_experts = num_experts(config.text_config) is not None
    scale = compute.itemsize // torch.bfloat16.itemsize if has_experts else 1
    if has_experts:
        dtype, autocast = torch.bfloat16, None
    context = nullcontext() if autocast is None else torch.autocast("cpu", autocast)
    with FakeTensorMode():
        # Drawing initial weights looks at values, and fake tensors have none.
        with no_init_weights():
            model = MM1ForConditionalGeneration._from_config(
                copy.deepcopy(config), dtype=dtype, attn_implementation=_register_unmasked()
            )
        parts = part_modules(model.train())
        for name in frozen:
            parts[name].requires_grad_(False)
        pixels = torch.empty(num_tiles, vision.num_channels, height, width, dtype=dtype)
        ids = torch.zeros(num_sequences, sequence_length, dtype=torch.long)
        with context, _Keeper(model, parts) as keeper:
            embeds = model.get_input_embeddings()(ids)
            if num_tiles:
                seen = model.get_image_features(cast(torch.FloatTensor, pixels), return_dict=True)
                visual = seen.pooler_output
                mask = torch.zeros(num_sequences, sequence_length, 1, dtype=torch.bool)
                assert visual is not None
                embeds = embeds.masked_scatter(mask, visual.to(embeds.dtype))
            model.model.language_model(inputs_embeds=embeds, use_cache=False)
    return {name: part.times(scale) for name, part in keeper.activations().items()}


def _register_unmasked() -> str:
    """Attention as kernels for packs do it: causal, without a mask of all pairs.

    While tracing, transformers builds that mask, and repeats keys and values for it.
    """
    name = "mm1_unmasked"
    AttentionInterface.register(name, _fused_attention)
    AttentionMaskInterface.register(name, _no_mask)
    return name


def _fused_attention(
    module: nn.Module, *states: torch.Tensor | None, softcap: float | None = None, **kwargs: Any
) -> Any:
    """SDPA, which refuses a soft cap; a kernel that has one keeps nothing more for it."""
    return sdpa_attention_forward(module, *cast(Any, states), **kwargs)


def _no_mask(**kwargs: Any) -> None:
    return None


class _Keeper(AbstractContextManager):
    """While open, books every tensor that autograd keeps to the part and layer that made it."""

    def __init__(self, model: MM1ForConditionalGeneration, parts: dict[str, nn.Module]):
        self._bytes: dict[tuple[str, int | None], int] = defaultdict(int)
        self._inputs: dict[tuple[str, int], int] = {}
        self._place: list[tuple[str, int | None]] = [("language_model", None)]
        self._parts = parts
        # Weights are there anyway. Storages stay referenced, lest an address be used again.
        weights = [*model.parameters(), *model.buffers()]
        self._known = {_address(tensor): tensor for tensor in weights}
        self._stack = ExitStack()

    def __enter__(self) -> "_Keeper":
        for part, module in self._parts.items():
            self._watch(module, (part, None))
            layers = (m for m in module.modules() if isinstance(m, GradientCheckpointingLayer))
            for index, layer in enumerate(layers):
                self._inputs[part, index] = self._bytes[part, index] = 0
                self._watch(layer, (part, index))
        hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._stack.enter_context(hooks)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _watch(self, module: nn.Module, place: tuple[str, int | None]) -> None:
        def enter(module, args, kwargs):
            self._place.append(place)
            if place[1] is not None:
                states = args[0] if args else kwargs["hidden_states"]
                self._inputs[place[0], place[1]] = states.nbytes

        def leave(module, args, output):
            self._place.pop()

        handles = (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        )
        for handle in handles:
            self._stack.callback(handle.remove)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        address = _address(tensor)
        if address not in self._known:
            self._known[address] = tensor
            self._bytes[self._place[-1]] += tensor.untyped_storage().nbytes()
        return tensor

    def activations(self) -> dict[str, PartActivations]:
        """What was booked, for each part but the head."""
        found = {}
        for part in list(self._parts)[:-1]:
            indices = [index for name, index in self._inputs if name == part]
            found[part] = PartActivations(
                layers=tuple(self._bytes[part, index] for index in indices),
                inputs=tuple(self._inputs[part, index] for index in indices),
                rest=self._bytes[part, None],
            )
        return found


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


__all__ = ["PartActivations", "trace_activations"]
