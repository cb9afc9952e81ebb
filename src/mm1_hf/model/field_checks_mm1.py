"""Checks that every configuration makes: no misspelt field, sizes that are sizes."""

import difflib
from dataclasses import fields
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

# Names that transformers itself passes to a configuration besides its declared fields: old
# spellings it converts, run-time switches, and entries that tools write into `config.json`.
_TRANSFORMERS_KEYWORDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "compression_config",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "partial_rotary_factor",
        "per_layer_config",
        "quantization_config",
        "rope_scaling",
        "rope_theta",
        "tie_last_hidden_states",
        "torch_dtype",
    }
)


def refuse_unknown_keywords(config: PreTrainedConfig, keywords: dict[str, Any]) -> None:
    """Raise for a keyword that is no field, since transformers would keep it as an attribute.

    A configuration that was saved (saving enters the version) must load again, whatever attributes
    trainers and other tools left on it.
    """
    if config.transformers_version is not None:
        return
    generation = GenerationConfig._get_default_generation_params()
    unknown = [
        name
        for name in keywords
        if not name.startswith("_")
        and name not in _TRANSFORMERS_KEYWORDS
        and name not in generation
    ]
    if not unknown:
        return
    known = sorted(field.name for field in fields(config))
    lines = []
    for name in unknown:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        lines.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    raise ValueError(
        f"{type(config).__name__} has no field {', '.join(lines)}. Its own fields are: "
        f"{', '.join(name for name in known if name not in _INHERITED_FIELDS)}."
    )


_INHERITED_FIELDS = frozenset(field.name for field in fields(PreTrainedConfig))


def require_positive(config: PreTrainedConfig, *names: str) -> None:
    """Raise unless the named fields are positive, or not set."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{type(config).__name__}.{name} must be positive, but it is {value}.")


def require_multiple(config: PreTrainedConfig, *, whole: str, part: str) -> None:
    """Raise unless the field `whole` is a multiple of the field `part`."""
    value, divisor = getattr(config, whole), getattr(config, part)
    if value % divisor:
        raise ValueError(
            f"{type(config).__name__}.{whole} ({value}) must be a multiple of {part} ({divisor})."
        )


__all__ = ["refuse_unknown_keywords", "require_multiple", "require_positive"]
