"""Decoders of the Llama, Mistral, Qwen2 and Qwen3 families as `MM1ForCausalLM`, and back.

All use the same names of parameters, so the tables are short; what must be translated is the
configuration, and what cannot be is refused.

Source: transformers 5, `models/{llama,mistral,qwen2,qwen3}` (configurations, names of parameters).
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mm1_hf.conversion.formats import (
    ConversionOptions,
    Format,
    Route,
    Side,
    copy_tokenizer,
    require_options,
    write_config,
)
from mm1_hf.conversion.renaming import Constant, Drop, Rename, RenameTable, Rule
from mm1_hf.conversion.sources import FolderSource, Source
from mm1_hf.model.configuration_mm1 import MM1TextConfig
from mm1_hf.model.decoder_mm1 import MM1ForCausalLM

# The rotary settings that MM1TextModel computes as transformers' Llama does.
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
# Those that do not depend on max_position_embeddings.
_LENGTH_FREE_ROPE_TYPES = ("default", "linear", "llama3")

# What holds for all of them: no experts.
_DENSE = {"num_experts": None}

_SHARED_FIELDS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "use_cache",
    "vocab_size",
)


class DecoderFormat(Format):
    """A decoder with its head, in Llama's naming.

    Attributes:
        config_class: Its configuration.
        model_class: Its class.
        fixed: Fields of `MM1TextConfig` that this family has no choice about.
        chosen: Fields of `MM1TextConfig` that its configuration has too.
    """

    own_type = "mm1_text"
    options = frozenset({"max_positions"})

    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    fixed: ClassVar[Mapping[str, Any]]
    chosen: ClassVar[tuple[str, ...]] = ()

    def own_config(self, config: PreTrainedConfig, options: ConversionOptions) -> MM1TextConfig:
        """Our decoder's configuration.

        Raises:
            ValueError: If the decoder has rotary positions or a window that ours has not.
        """
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"Expected a {self.config_class.__name__} for kind {self.kind!r}, but found "
                f"{type(config).__name__} with model_type {config.model_type!r}."
            )
        fields = {name: copy.deepcopy(getattr(config, name)) for name in _SHARED_FIELDS}
        fields |= {name: getattr(config, name) for name in self.chosen} | dict(self.fixed) | _DENSE
        rope = _require_rope(fields["rope_parameters"], name=type(config).__name__)
        if options.max_positions is not None:
            if rope not in _LENGTH_FREE_ROPE_TYPES:
                raise ValueError(
                    f"Rotary positions of type {rope!r} depend on max_position_embeddings "
                    f"({config.max_position_embeddings}), so max_positions cannot be changed."
                )
            fields["max_position_embeddings"] = options.max_positions
        _require_no_window(config, max_positions=fields["max_position_embeddings"])
        return MM1TextConfig(**fields)

    def their_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The family's configuration, on the way back.

        Raises:
            ValueError: If our decoder has something that this family has not.
        """
        name = self.model_class.__name__
        require_options(config, {**self.fixed, **_DENSE}, name=name)
        natural = config.hidden_size // config.num_attention_heads
        if "head_dim" not in self.chosen and config.head_dim != natural:
            raise ValueError(f"{name} has heads of width {natural}, not {config.head_dim}.")
        fields = {name: copy.deepcopy(getattr(config, name)) for name in _SHARED_FIELDS}
        fields |= {name: getattr(config, name) for name in self.chosen}
        return self.config_class(**fields | self.their_fields())

    def their_fields(self) -> dict[str, Any]:
        """Fields of the family's configuration that ours has not."""
        return {}

    def rules(self, config: PreTrainedConfig, *, body: str = "model") -> list[Rule]:
        """The rules for one configuration of ours, with the decoder's layers below `body`."""
        rules: list[Rule] = [
            Drop(f"{body}.layers.{{}}.self_attn.rotary_emb.inv_freq", "a constant")
        ]
        if config.tie_word_embeddings:
            tied = "a copy of the embedding table, to which the head is tied"
            rules.append(Drop("lm_head", tied, equals=f"{body}.embed_tokens.weight"))
        return [*rules, Rename(body, body), Rename("lm_head", "lm_head")]

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `MM1ForCausalLM`."""
        config = self.own_config(source.config, options)
        return Route(
            Side(self.model_class.__name__),
            Side("MM1ForCausalLM", config, MM1ForCausalLM),
            RenameTable(self.rules(config)),
        )

    def route_back(self, source: Source) -> Route:
        """From an `MM1ForCausalLM`."""
        theirs = self.their_config(source.config)
        return Route(
            Side("MM1ForCausalLM", source.config, MM1ForCausalLM),
            Side(self.model_class.__name__, theirs, self.model_class),
            RenameTable(self.rules(source.config)).reversed(),
        )

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write the configuration; copy tokenizer and settings of generation."""
        write_config(route.target, folder)
        copy_tokenizer(source, folder)
        return []


class LlamaFormat(DecoderFormat):
    """Llama, and the many decoders published as Llama."""

    kind = "llama"
    description = "a decoder of the Llama family"
    model_types = ("llama",)
    config_class = LlamaConfig
    model_class = LlamaForCausalLM
    fixed: ClassVar[Mapping[str, Any]] = {"qk_norm": False}
    chosen = ("attention_bias", "head_dim", "mlp_bias")


class MistralFormat(DecoderFormat):
    """Mistral without its sliding window, or up to the window's length."""

    kind = "mistral"
    description = "a decoder of the Mistral family, up to the length of its sliding window"
    model_types = ("mistral",)
    config_class = MistralConfig
    model_class = MistralForCausalLM
    fixed: ClassVar[Mapping[str, Any]] = {
        "attention_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
    }
    chosen = ("head_dim",)

    def their_fields(self) -> dict[str, Any]:
        """No sliding window."""
        return {"sliding_window": None}


class Qwen2Format(DecoderFormat):
    """Qwen2 and Qwen2.5: biases on queries, keys and values only; ours gets a zero one besides."""

    kind = "qwen2"
    description = "a decoder of the Qwen2 or Qwen2.5 family"
    model_types = ("qwen2",)
    config_class = Qwen2Config
    model_class = Qwen2ForCausalLM
    fixed: ClassVar[Mapping[str, Any]] = {
        "attention_bias": True,
        "mlp_bias": False,
        "qk_norm": False,
    }

    def rules(self, config: PreTrainedConfig, *, body: str = "model") -> list[Rule]:
        """Llama's, and a zero bias of the output projection for each layer."""
        reason = "Qwen2's output projection has no bias"
        shape = (config.hidden_size,)
        zeros = [
            Constant(f"{body}.layers.{layer}.self_attn.o_proj.bias", shape, 0.0, reason)
            for layer in range(config.num_hidden_layers)
        ]
        return [*zeros, *super().rules(config, body=body)]


class Qwen3Format(DecoderFormat):
    """Qwen3, dense: queries and keys are normalised per head."""

    kind = "qwen3"
    description = "a dense decoder of the Qwen3 family"
    model_types = ("qwen3",)
    config_class = Qwen3Config
    model_class = Qwen3ForCausalLM
    fixed: ClassVar[Mapping[str, Any]] = {"mlp_bias": False, "qk_norm": True}
    chosen = ("attention_bias", "head_dim")


DECODERS: dict[str, DecoderFormat] = {
    "llama": LlamaFormat(),
    "mistral": MistralFormat(),
    "qwen2": Qwen2Format(),
    "qwen3": Qwen3Format(),
}


def decoder_for(config: PreTrainedConfig) -> DecoderFormat:
    """The family whose configuration this is.

    Raises:
        ValueError: If it is none of ours.
    """
    for decoder in DECODERS.values():
        if config.model_type in decoder.model_types:
            return decoder
    raise ValueError(
        f"The decoder's model_type is {config.model_type!r}, but MM1TextModel can only be "
        f"{', '.join(DECODERS)}. Compose with the decoder as it is: "
        "MM1ForConditionalGeneration.from_parts(text=…)."
    )


def _require_rope(rope: Mapping[str, Any] | None, *, name: str) -> str:
    """The type of the rotary positions, if it is one of ours."""
    kind = (rope or {}).get("rope_type", "default")
    partial = (rope or {}).get("partial_rotary_factor", 1.0)
    if kind not in ROPE_TYPES or partial != 1.0 or "mrope_section" in (rope or {}):
        raise ValueError(
            f"{name} has rotary positions {dict(rope or {})}, but MM1TextModel knows "
            f"{', '.join(ROPE_TYPES)}, on whole heads. Compose with the decoder as it is: "
            "MM1ForConditionalGeneration.from_parts(text=…)."
        )
    return kind


def _require_no_window(config: PreTrainedConfig, *, max_positions: int) -> None:
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if window is None or (layer_types and "sliding_attention" not in layer_types):
        return
    if window < max_positions:
        raise ValueError(
            f"{type(config).__name__} has a sliding window of {window:,} tokens and "
            f"max_position_embeddings of {max_positions:,}; MM1TextModel has no window. Up to "
            f"{window:,} tokens both are equal: convert with max_positions={window} "
            f"(--max-positions {window})."
        )
