"""Weights of eight or four bits: which to convert, and a decoder for CPUs that reads few bytes.

Two ways. `modules_to_not_convert` is the skip list for the `quantization_config` of transformers
(torchao, bitsandbytes …), whose checkpoints are saved and loaded as any other. `quantise_int8`
converts a loaded model in memory, to int8 weights with one scale per output channel; its products
run in bf16 on a CPU, where decoding one token is as fast as the weights can be read.

Experts are three-dimensional parameters and no linear layers: every `quantization_config` that
goes by linear layers passes over them without a word. Here that is an error until it is asked for.

Letters: N rows, C input and O output channels, E experts, K experts of one token.

Source: our choice; rounding to nearest per output channel is the plainest int8 there is.
"""

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

Part = Literal["vision_tower", "connector", "language_model", "lm_head"]

# Tower and connector are a small share of the weights, run once per picture, and every later token
# depends on them; the head is the one matrix whose rounding meets the soft-max directly.
KEPT_BY_DEFAULT: tuple[Part, ...] = ("vision_tower", "connector", "lm_head")

# Full names: a skip list is compared with the start of a module's name.
_NAMES_WITH_TOWER: dict[str, str] = {
    "vision_tower": "model.vision_tower",
    "connector": "model.connector",
    "language_model": "model.language_model",
    "lm_head": "lm_head",
}
_NAMES_OF_DECODER: dict[str, str] = {"language_model": "model", "lm_head": "lm_head"}

# The CPU kernel reads the input channels in blocks of this many, past the end if there are fewer.
_CHANNEL_BLOCK = 32


class Int8Report(NamedTuple):
    """What `quantise_int8` did.

    Attributes:
        converted: Names of the modules whose weights are int8 now.
        kept: Names of linear layers left as they were, each with the reason.
        bytes_before: Of all parameters and buffers.
        bytes_after: Likewise.
    """

    converted: list[str]
    kept: dict[str, str]
    bytes_before: int
    bytes_after: int


def modules_to_not_convert(
    config: PreTrainedConfig,
    *,
    keep: Collection[Part] = KEPT_BY_DEFAULT,
    experts: Literal["refuse", "keep"] = "refuse",
) -> list[str]:
    """The skip list of a quantisation, by full names.

    Pass it as `modules_to_not_convert=` (torchao, HQQ, GPTQ …) or `llm_int8_skip_modules=`
    (bitsandbytes). A bare `"vision_tower"` there would skip nothing.

    Args:
        config: Of the model: `MM1Config`, or `MM1TextConfig` for a decoder alone.
        keep: Parts that stay in full precision.
        experts: What to do about a sparse decoder, whose experts stay in full precision whatever
            the list says: `"refuse"` raises, `"keep"` accepts it.

    Raises:
        ValueError: If a part is unknown, or the decoder has experts and they are not accepted.
    """
    names = _names(config)
    unknown = sorted(set(keep) - set(names))
    if unknown:
        raise ValueError(
            f"keep has {', '.join(unknown)}, but the parts of this model are {', '.join(names)}."
        )
    count = _num_experts(config)
    if count and experts == "refuse" and "language_model" not in keep:
        raise ValueError(
            f"The decoder has {count} experts per sparse layer, which are most of its weights and "
            "no linear layers: quantisation by configuration passes over them silently, and the "
            "model stays almost as large as it was. Say experts='keep' if that is meant; on a CPU "
            "mm1_hf.quantisation.quantise_int8(model) converts experts too."
        )
    return [names[part] for part in names if part in keep]


def quantise_int8(
    model: PreTrainedModel, *, keep: Collection[Part] = ("vision_tower", "connector")
) -> Int8Report:
    """Convert a model on a CPU to int8 weights, in place, experts included.

    For reading and generating only: converted layers give no gradient to weights, and cannot be
    saved; keep the checkpoint and convert after loading, which takes about as long as loading.

    Args:
        model: `MM1ForConditionalGeneration`, `MM1ForCausalLM`, or a model of transformers with the
            same names, on a CPU.
        keep: Parts that stay in full precision.

    Returns:
        What was converted, what was not and why, and how many bytes there are now.

    Raises:
        ValueError: If a part is unknown, the model is not on a CPU, or nothing can be converted.
    """
    if model.device.type != "cpu":
        raise ValueError(
            f"The model is on {model.device}, but quantise_int8 is for CPUs. There, load with "
            "quantization_config=TorchAoConfig(…, modules_to_not_convert=…) instead."
        )
    kept_names = modules_to_not_convert(model.config, keep=keep, experts="keep")
    before = _num_bytes(model)
    converted: list[str] = []
    kept: dict[str, str] = {}
    for name, module in list(model.named_modules()):
        replacement = _replacement(module)
        if replacement is None:
            continue
        part = next((part for part in kept_names if f"{name}.".startswith(f"{part}.")), None)
        if part is not None:
            kept[name] = f"{part} is kept"
        elif isinstance(replacement, str):
            kept[name] = replacement
        else:
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, replacement())
            converted.append(name)
    if not converted:
        raise ValueError(
            f"Nothing could be converted; of {len(kept)} layers the first is {next(iter(kept), '')}"
            f": {next(iter(kept.values()), 'there are no linear layers')}."
        )
    return Int8Report(converted, kept, before, _num_bytes(model))


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale for each output channel."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = round_to_int8(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(…, C)` to `(…, O)`, in the dtype of the input."""
        rows = hidden_states.reshape(-1, self.in_features)
        output = _product(rows, self.weight, self.scale)
        output = output if self.bias is None else output + self.bias
        return output.to(hidden_states.dtype).view(*hidden_states.shape[:-1], self.out_features)

    def _save_to_state_dict(self, *args, **kwargs):
        _refuse_to_save()


class Int8Experts(nn.Module):
    """SwiGLU experts with int8 weights, in place of those of MM1, Mixtral and the like."""

    gate_up: torch.Tensor
    gate_up_scale: torch.Tensor
    down: torch.Tensor
    down_scale: torch.Tensor

    def __init__(self, *, gate_up: torch.Tensor, down: torch.Tensor, act_fn: Callable):
        super().__init__()
        self.num_experts = len(gate_up)
        self.act_fn = act_fn
        for name, weights in (("gate_up", gate_up), ("down", down)):
            rounded = [round_to_int8(weight) for weight in weights]  # one expert at a time
            self.register_buffer(name, torch.stack([weight for weight, _ in rounded]))
            self.register_buffer(f"{name}_scale", torch.stack([scale for _, scale in rounded]))

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run the chosen experts one after the other.

        Args:
            hidden_states: `(N, C)`.
            top_k_index: `(N, K)`.
            top_k_weights: `(N, K)`.

        Returns:
            `(N, C)`.
        """
        output = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            token, choice = (top_k_index == expert).nonzero(as_tuple=True)
            inner = _product(hidden_states[token], self.gate_up[expert], self.gate_up_scale[expert])
            gate, up = inner.chunk(2, dim=-1)
            found = _product(self.act_fn(gate) * up, self.down[expert], self.down_scale[expert])
            found = found * top_k_weights[token, choice, None]
            output.index_add_(0, token, found.to(output.dtype))
        return output

    def _save_to_state_dict(self, *args, **kwargs):
        _refuse_to_save()


def round_to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight to int8, symmetrically per output channel.

    Args:
        weight: `(O, C)`.

    Returns:
        int8 `(O, C)` and fp32 scales `(O,)`, whose product is near the weight.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def _product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`(N, C)` times int8 `(O, C)` to fp32 `(N, O)`.

    The scales are applied in fp32 afterwards: the kernel would take them rounded to bf16.
    """
    if not len(rows):
        return rows.new_zeros(0, len(weight), dtype=torch.float32)
    ones = torch.ones(len(weight), dtype=torch.bfloat16)
    rows = rows.to(torch.bfloat16).contiguous()
    return torch._weight_int8pack_mm(rows, weight, ones).float() * scale


def _replacement(module: nn.Module) -> Callable[[], nn.Module] | str | None:
    """How to convert a module, the reason why not, or None for what has no such weights."""
    if isinstance(module, nn.Linear):
        if module.in_features % _CHANNEL_BLOCK:
            return f"{module.in_features} input channels are no multiple of {_CHANNEL_BLOCK}"
        return lambda: Int8Linear(module)
    gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not isinstance(gate_up, nn.Parameter) or not isinstance(down, nn.Parameter):
        return None
    act_fn = getattr(module, "act_fn", None)
    layout = [getattr(module, name, False) for name in ("is_transposed", "has_bias")]
    if act_fn is None or any(layout) or not getattr(module, "is_concatenated", True):
        return "experts of this layout are not known here"
    if gate_up.shape[-1] % _CHANNEL_BLOCK or down.shape[-1] % _CHANNEL_BLOCK:
        return f"the widths of the experts are no multiples of {_CHANNEL_BLOCK}"
    return lambda: Int8Experts(gate_up=gate_up, down=down, act_fn=act_fn)


def _names(config: PreTrainedConfig) -> dict[str, str]:
    return _NAMES_WITH_TOWER if hasattr(config, "vision_config") else _NAMES_OF_DECODER


def _num_experts(config: PreTrainedConfig) -> int:
    text = config.get_text_config(decoder=True)
    fields = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((found for name in fields if (found := getattr(text, name, None))), 0)


def _num_bytes(model: nn.Module) -> int:
    tensors = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.nbytes for one in tensors.values())


def _refuse_to_save() -> None:
    raise ValueError(
        "A model that quantise_int8 converted cannot be saved: its int8 weights are in no layout "
        "that from_pretrained knows. Save it before converting, or load it with "
        "quantization_config=TorchAoConfig(…), which saves."
    )


__all__ = [
    "KEPT_BY_DEFAULT",
    "Int8Experts",
    "Int8Linear",
    "Int8Report",
    "modules_to_not_convert",
    "quantise_int8",
    "round_to_int8",
]
