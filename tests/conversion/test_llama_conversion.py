import pytest
import torch
from transformers import LlamaForCausalLM, LlamaModel, Qwen2ForCausalLM

from mm1_hf import MM1ForCausalLM
from mm1_hf.conversion import convert_llama, export_llama

from ..model import tiny

VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
    "several_ends": {"eos_token_id": [2, 3]},
}


def llama(**changes) -> LlamaForCausalLM:
    config = tiny.text_configs()["llama"]
    config = type(config)(**{**config.to_dict(), **changes})
    return tiny.randomised(LlamaForCausalLM(config))


def assert_bit_equal(found, expected) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def settings(model) -> dict:
    """The configuration; a converted one says its dtype, a hand-made one may not."""
    return {name: value for name, value in model.config.to_dict().items() if name != "dtype"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_changes_no_bit(variant):
    theirs = llama(**VARIANTS[variant])
    again = export_llama(convert_llama(theirs).model).model
    assert_bit_equal(again, theirs)
    assert settings(again) == settings(theirs)
    ids = torch.randint(3, 90, (1, 8))
    assert torch.equal(again.eval()(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_back_and_there_changes_no_bit(variant):
    ours = tiny.randomised(MM1ForCausalLM(tiny.text_config(**VARIANTS[variant])))
    again = convert_llama(export_llama(ours).model).model
    assert_bit_equal(again, ours)
    assert settings(again) == settings(ours)


def test_the_report_lists_every_tensor():
    theirs = llama()
    model, report = convert_llama(theirs)
    assert report.renamed == {key: key for key in model.state_dict()}
    assert not report.dropped


def test_a_tied_head_stays_tied():
    ours = convert_llama(llama(tie_word_embeddings=True)).model
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


def test_the_dtype_is_kept():
    assert convert_llama(llama().to(torch.bfloat16)).model.dtype == torch.bfloat16


def test_generation_settings_come_along():
    theirs = llama()
    theirs.generation_config.max_new_tokens = 3
    theirs.generation_config.eos_token_id = [2, 7]
    for converted in (convert_llama(theirs).model, export_llama(convert_llama(theirs).model).model):
        assert converted.generation_config.max_new_tokens == 3
        assert converted.generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize("kind", ["headless", "qwen2"])
def test_another_model_is_an_error_that_names_what_was_found(kind):
    configs = tiny.text_configs()
    model = (
        LlamaModel(configs["llama"]) if kind == "headless" else Qwen2ForCausalLM(configs["qwen2"])
    )
    with pytest.raises(ValueError, match=f"but found {type(model).__name__}"):
        convert_llama(model)


def test_qk_norm_is_not_exported():
    with pytest.raises(ValueError, match="Llama has no QK-norm"):
        export_llama(MM1ForCausalLM(tiny.text_config(qk_norm=True)))
