"""transformers' Llama decoder as `MM1ForCausalLM`, and back.

Both use the same names of parameters, so the table is one line; what must be translated is the
configuration.

Source: transformers 5, `models/llama/modeling_llama.py`.
"""

import copy

from transformers import LlamaConfig, LlamaForCausalLM

from mm1_hf.conversion.renaming import (
    Conversion,
    ConversionReport,
    Rename,
    RenameTable,
    load_exactly,
)
from mm1_hf.model.configuration_mm1 import MM1TextConfig
from mm1_hf.model.decoder_mm1 import MM1ForCausalLM

LLAMA_TABLE = RenameTable([Rename("model", "model"), Rename("lm_head", "lm_head")])

_SHARED_FIELDS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
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


def convert_llama(model: LlamaForCausalLM) -> Conversion:
    """Convert a Llama decoder into an `MM1ForCausalLM`.

    Args:
        model: The decoder with its head.

    Returns:
        The decoder in the dtype of the source, and the report.

    Raises:
        ValueError: If `model` is no `LlamaForCausalLM`, or its keys do not fit.
    """
    if model.config.model_type != "llama" or model.get_output_embeddings() is None:
        raise ValueError(
            f"Expected a LlamaForCausalLM, but found {type(model).__name__} with model_type "
            f"{model.config.model_type!r}."
        )
    config = MM1TextConfig(**_shared(model.config))
    report = ConversionReport(source="LlamaForCausalLM", target="MM1ForCausalLM")
    state_dict = LLAMA_TABLE.apply(model.state_dict(), report=report)
    converted = MM1ForCausalLM._from_config(config, dtype=model.dtype)
    load_exactly(converted, state_dict, report=report)
    converted.generation_config = copy.deepcopy(model.generation_config)
    return Conversion(converted, report)


def export_llama(model: MM1ForCausalLM) -> Conversion:
    """Convert an `MM1ForCausalLM` back into a `LlamaForCausalLM`.

    Args:
        model: A decoder without QK-norm.

    Returns:
        The Llama decoder in the dtype of the source, and the report.

    Raises:
        ValueError: If the decoder uses an option that Llama does not have.
    """
    if model.config.qk_norm:
        raise ValueError("Llama has no QK-norm, but this decoder was configured with qk_norm=True.")
    report = ConversionReport(source="MM1ForCausalLM", target="LlamaForCausalLM")
    state_dict = LLAMA_TABLE.reversed().apply(model.state_dict(), report=report)
    exported = LlamaForCausalLM._from_config(
        LlamaConfig(**_shared(model.config)), dtype=model.dtype
    )
    load_exactly(exported, state_dict, report=report)
    exported.generation_config = copy.deepcopy(model.generation_config)
    return Conversion(exported, report)


def _shared(config: LlamaConfig | MM1TextConfig) -> dict:
    return {name: copy.deepcopy(getattr(config, name)) for name in _SHARED_FIELDS}
