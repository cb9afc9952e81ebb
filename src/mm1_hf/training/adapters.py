"""LoRA configurations for MM1: which modules get an adapter, by their full names.

Lists of short names (`q_proj`, or PEFT's `"all-linear"`) also hit the vision tower, whose layers
are named as the decoder's are, and the routers of a sparse decoder. Full names hit what is meant.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import nn

# The owner of the list of parts that no gradient ever reaches is the model.
from mm1_hf.model.modeling_mm1 import POOLING_PARTS

if TYPE_CHECKING:
    from peft import LoraConfig

Preset = Literal["decoder", "decoder+connector", "all"]
Embeddings = Literal["frozen", "trained"]
Experts = Literal["frozen", "adapted"]

_PARTS = ("vision_tower", "connector", "language_model")
# Last parts of the names of layers that choose experts; their names are those of transformers.
_ROUTERS = ("gate", "router", "shared_expert_gate")


def adapter_config(
    model: nn.Module,
    *,
    preset: Preset = "decoder",
    r: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    embeddings: Embeddings = "frozen",
    experts: Experts = "frozen",
    **settings: Any,
) -> "LoraConfig":
    """A `LoraConfig` for this model, for `peft.get_peft_model` and for TRL's `peft_config`.

    No preset touches the head, the token table, norms or a router. The defaults of rank and scale
    are our choice; MM1 trains whole models.

    Args:
        model: An MM1 with a head, composed of whatever parts, without adapters.
        preset: `"decoder"`: every linear layer of the decoder. `"decoder+connector"`: also the
            whole connector, which is small and therefore trained and saved whole. `"all"`: also
            every linear layer of the vision tower, but not its patch embedding, positions and
            pooling head.
        r: Rank.
        lora_alpha: The update is multiplied with `lora_alpha / r`.
        lora_dropout: Dropout in front of the adapters.
        embeddings: `"trained"` trains and saves the token table and the head whole, as one where
            they are tied: for tokens that the decoder does not know yet. The image token needs
            none of it, since visual tokens take its place.
        experts: `"adapted"` adds the experts of a sparse decoder whose weights are fused in
            parameters of three dimensions.
        settings: Further fields of `LoraConfig`, such as `use_rslora`.

    Returns:
        The configuration, with full names of modules.

    Raises:
        ValueError: If an argument is unknown, the model lacks a part or has adapters, no linear
            layer is found, or experts are asked for where there are none or together with dropout,
            which they cannot have.
    """
    from peft import LoraConfig, TaskType

    _require_known(preset=preset, embeddings=embeddings, experts=experts)
    parts = _parts(model)
    targets = linear_layers(model, "language_model")
    saved: list[str] = []
    if preset != "decoder":
        saved.append(parts["connector"])
    if preset == "all":
        targets += linear_layers(model, "vision_tower")
    if embeddings == "trained":
        tied = model.config.tie_word_embeddings  # pyright: ignore[reportAttributeAccessIssue]
        saved += _token_tables(model, tied=bool(tied))
        settings = {"ensure_weight_tying": bool(tied), **settings}
    if experts == "adapted":
        settings = {"target_parameters": _expert_parameters(model, lora_dropout), **settings}
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=targets,
        modules_to_save=saved or None,
        **settings,
    )


def linear_layers(
    model: nn.Module, part: Literal["language_model", "vision_tower", "connector"]
) -> list[str]:
    """Full names of the linear layers of a part that adapters can be put on.

    Left out are routers, whose few weights decide who learns, and pooling heads, which no gradient
    reaches.

    Raises:
        ValueError: If the model lacks a part, has adapters, or the part has no such layer.
    """
    prefix = f"{_parts(model)[part]}."
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    unused = [
        f"{_parts(model)['vision_tower']}.{name}."
        for name in POOLING_PARTS.get(getattr(vision, "model_type", ""), ())
    ]
    names = [
        name
        for name, module in model.named_modules()
        if name.startswith(prefix)
        and isinstance(module, nn.Linear)
        and name.rpartition(".")[2] not in _ROUTERS
        and not any(name.startswith(one) for one in unused)
    ]
    if not names:
        raise ValueError(
            f"The {part} of this {type(model).__name__} has no torch.nn.Linear to adapt. Pass "
            "target_modules to peft.LoraConfig yourself."
        )
    return names


def _require_known(**chosen: str) -> None:
    known = {"preset": Preset, "embeddings": Embeddings, "experts": Experts}
    for name, value in chosen.items():
        values = get_args(known[name])
        if value not in values:
            raise ValueError(
                f"{name} is {value!r}, but it must be one of: {', '.join(map(repr, values))}."
            )


def _parts(model: nn.Module) -> dict[str, str]:
    """Full names of the three parts."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            "The model has adapters already, which would be adapted in turn. Pass the model "
            "without them (model.unload()), or merge them first (model.merge_and_unload())."
        )
    found: dict[str, str] = {}
    for name, _ in model.named_modules():
        last = name.rpartition(".")[2]
        if last in _PARTS:
            found.setdefault(last, name)
    missing = [part for part in _PARTS if part not in found]
    if missing:
        raise ValueError(
            f"This {type(model).__name__} has no {' and no '.join(missing)}. Pass an "
            "MM1ForConditionalGeneration."
        )
    return found


def _token_tables(model: Any, *, tied: bool) -> list[str]:
    """Full names of the token table, and of the head if that has weights of its own."""
    tables: Iterable[nn.Module] = [model.get_input_embeddings()]
    if not tied:
        tables = [*tables, model.get_output_embeddings()]
    names = {module: name for name, module in model.named_modules()}
    return [names[table] for table in tables]


def _expert_parameters(model: nn.Module, lora_dropout: float) -> list[str]:
    """Full names of the fused weights of experts, `(experts, out, in)`."""
    if lora_dropout:
        raise ValueError(
            f"lora_dropout is {lora_dropout}, but PEFT adapts parameters of experts without "
            "dropout only. Pass lora_dropout=0."
        )
    prefix = f"{_parts(model)['language_model']}."
    names = [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and ".experts." in name and parameter.ndim == 3
    ]
    if not names:
        raise ValueError(
            "experts is 'adapted', but this decoder has no fused experts. Leave it 'frozen'; "
            "experts that are linear layers are adapted as such."
        )
    return names


__all__ = ["Embeddings", "Experts", "Preset", "adapter_config", "linear_layers"]
