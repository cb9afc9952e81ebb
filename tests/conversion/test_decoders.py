"""What MM1TextModel can hold, and what is refused."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mm1_hf import MM1ForCausalLM
from mm1_hf.conversion import ConversionOptions, convert_model, convert_model_back
from mm1_hf.conversion.decoders import ROPE_TYPES

from ..model import tiny
from .originals import assert_bit_equal, original

ROPE = {
    "default": {"rope_theta": 5e5},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 16},
    "longrope": {
        "short_factor": [1.0] * 3,
        "long_factor": [2.0] * 3,
        "original_max_position_embeddings": 16,
        "factor": 2.0,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def rope(kind: str) -> dict:
    return {"rope_type": kind, "rope_theta": 1e4, **ROPE[kind]}


def llama(**changes) -> LlamaForCausalLM:
    return tiny.randomised(LlamaForCausalLM(LlamaConfig(**{**tiny.TEXT_SIZES, **changes})))


VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "several_ends": {"eos_token_id": [2, 3]},
    "wide_heads": {"head_dim": 16},
    **{f"rope_{kind}": {"rope_parameters": rope(kind)} for kind in ROPE},
}


def settings(model) -> dict:
    """The configuration; a converted one says its dtype, a hand-made one may not."""
    return {name: value for name, value in model.config.to_dict().items() if name != "dtype"}


def test_every_rotary_type_that_is_carried_is_tested():
    assert set(ROPE) == set(ROPE_TYPES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_changes_no_bit_and_no_setting(variant):
    theirs = llama(**VARIANTS[variant])
    again = convert_model_back(convert_model(theirs).model).model
    assert_bit_equal(again, theirs)
    assert settings(again) == settings(theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_back_and_there_changes_no_bit_and_no_setting(variant):
    ours = tiny.randomised(MM1ForCausalLM(tiny.text_config(**VARIANTS[variant])))
    again = convert_model(convert_model_back(ours).model).model
    assert_bit_equal(again, ours)
    assert settings(again) == settings(ours)


def test_rotary_positions_that_ours_has_not_are_refused():
    for wrong in (
        {"rope_type": "proportional", "partial_rotary_factor": 0.5},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "default", "mrope_section": [1, 1, 1]},
    ):
        model = llama()
        model.config.rope_parameters = {"rope_theta": 1e4, **wrong}
        with pytest.raises(ValueError, match=r"rotary positions .*from_parts\(text=…\)"):
            convert_model(model)


def mistral(window: int | None) -> MistralForCausalLM:
    sizes = {**tiny.TEXT_SIZES, "max_position_embeddings": 64}
    return tiny.randomised(MistralForCausalLM(MistralConfig(**sizes, sliding_window=window)))


def test_a_window_shorter_than_the_longest_sequence_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"window of 8 tokens.*max_positions=8"):
        convert_model(mistral(8))
    options = ConversionOptions(max_positions=8)
    assert convert_model(mistral(8), options=options).model.config.max_position_embeddings == 8
    convert_model(mistral(64))


def test_up_to_the_length_of_its_window_a_mistral_is_ours():
    theirs = mistral(8)
    ours = convert_model(theirs, options=ConversionOptions(max_positions=8)).model.eval()
    for length, is_equal in ((8, True), (9, False)):
        ids = torch.randint(3, 90, (2, length))
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5) == is_equal


def test_a_qwen2_that_uses_its_window_is_refused():
    config = Qwen2Config(
        **tiny.TEXT_SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    )
    with pytest.raises(ValueError, match="window of 8 tokens"):
        convert_model(Qwen2ForCausalLM(config))


def test_the_length_is_not_changed_under_positions_that_depend_on_it():
    model = llama(rope_parameters=rope("yarn"))
    with pytest.raises(ValueError, match="'yarn' depend on max_position_embeddings"):
        convert_model(model, options=ConversionOptions(max_positions=8))


def test_a_trained_bias_that_qwen2_has_not_stops_the_way_back():
    ours = convert_model(original("qwen2")).model
    with torch.no_grad():
        ours.model.layers[1].self_attn.o_proj.bias[0] = 0.5
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.o_proj\.bias would have to be 0"):
        convert_model_back(ours, kind="qwen2")
    assert convert_model_back(ours).report.target == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("llama", {"qk_norm": True}, "qk_norm is True, expected False"),
        ("mistral", {"attention_bias": True}, "attention_bias is True, expected False"),
        ("qwen2", {}, "attention_bias is False, expected True"),
        ("qwen2", {"attention_bias": True, "head_dim": 8}, "heads of width 6, not 8"),
        ("qwen3", {}, "qk_norm is False, expected True"),
        ("qwen3", {"qk_norm": True, "mlp_bias": True}, "mlp_bias is True, expected False"),
    ],
)
def test_a_decoder_the_family_cannot_be_is_not_exported(kind, options, message):
    with pytest.raises(ValueError, match=message):
        convert_model_back(MM1ForCausalLM(tiny.text_config(**options)), kind=kind)


def test_old_constants_are_dropped():
    from mm1_hf.conversion import FORMATS

    table_rules = FORMATS["llama"].rules(tiny.text_config())
    assert table_rules[0].source == "model.layers.{}.self_attn.rotary_emb.inv_freq"


def test_another_model_is_an_error_that_names_what_was_found():
    configs = tiny.text_configs()
    with pytest.raises(ValueError, match="embed_tokens"):
        convert_model(LlamaModel(configs["llama"]))
    with pytest.raises(ValueError, match="MixtralForCausalLM with model_type 'mixtral'"):
        convert_model(MixtralForCausalLM(configs["mixtral"]))
