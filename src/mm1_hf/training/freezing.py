"""Freezing parts of the model by name."""

from torch import nn

# The owner of the list of parts that no gradient ever reaches is the model.
from mm1_hf.model.modeling_mm1 import POOLING_PARTS
from mm1_hf.training.parameters import FREEZABLE, named_parts


def freeze(model: nn.Module, *parts: str) -> None:
    """Freeze parts; the others stay as they are.

    Args:
        model: An MM1, also with adapters: those of a frozen part freeze with it.
        parts: `"vision_tower"`, `"connector"`, `"decoder"` (the language model without its token
            table) and `"embeddings"` (the token table and the head).

    Raises:
        ValueError: If a part is unknown or the model has none of it.
    """
    _require_parts(model, parts)
    for entry in named_parts(model):
        if entry.part in parts:
            entry.parameter.requires_grad_(False)


def unfreeze(model: nn.Module, *parts: str) -> None:
    """Let parts train; the others stay as they are.

    Pooling heads of foreign vision towers stay frozen: the model does not use them, and a trainable
    parameter without gradient stops distributed training.

    Args:
        model: An MM1 without adapters.
        parts: As `freeze` takes them.

    Raises:
        ValueError: If a part is unknown or the model has none of it, or the model has adapters,
            whose base would then train.
    """
    if hasattr(model, "peft_config"):
        raise ValueError(
            "The model has adapters, and unfreezing a part would train the weights below them. Add "
            'what should train to modules_to_save of the adapter, such as ["connector"].'
        )
    _require_parts(model, parts)
    unused = _unused_prefixes(model)
    for entry in named_parts(model):
        if entry.part in parts and not any(prefix in f".{entry.name}" for prefix in unused):
            entry.parameter.requires_grad_(True)


def _require_parts(model: nn.Module, parts: tuple[str, ...]) -> None:
    there = {entry.part for entry in named_parts(model)}
    for part in parts:
        if part not in FREEZABLE:
            known = ", ".join(map(repr, FREEZABLE))
            raise ValueError(f"There is no part {part!r}; the parts of a model are: {known}.")
        if part not in there:
            raise ValueError(
                f"This {type(model).__name__} has no {part}. Pass an MM1ForConditionalGeneration."
            )


def _unused_prefixes(model: nn.Module) -> list[str]:
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    names = POOLING_PARTS.get(getattr(vision, "model_type", ""), ())
    return [f".vision_tower.{name}." for name in names]
