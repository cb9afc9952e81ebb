"""`MM1ForCausalLM` is transformers' Llama, and with QK-norm its Qwen3."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mm1_hf import MM1ForCausalLM
from mm1_hf.conversion import convert_llama

from ..model import tiny

ROPE = {
    "default": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
VARIANTS = {
    "plain": {},
    "all_heads_own_keys": {"num_key_value_heads": 4},
    "one_key_for_all_heads": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide_heads": {"head_dim": 16},
    **{f"rope_{name}": {"rope_parameters": settings} for name, settings in ROPE.items()},
}


def assert_same_logits_and_tokens(ours, theirs) -> None:
    ids = torch.randint(3, 90, (2, 40))
    expected = theirs(ids).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=1e-5)
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **greedy), theirs.generate(ids, **greedy))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_greedy_generation_are_llamas(variant):
    config = LlamaConfig(**{**tiny.TEXT_SIZES, **VARIANTS[variant]})
    theirs = tiny.randomised(LlamaForCausalLM(config))
    assert_same_logits_and_tokens(convert_llama(theirs).model.eval(), theirs)


def test_every_hidden_state_is_llamas():
    theirs = tiny.randomised(LlamaForCausalLM(LlamaConfig(**tiny.TEXT_SIZES)))
    ours = convert_llama(theirs).model.eval()
    ids = torch.randint(3, 90, (2, 12))
    expected = theirs(ids, output_hidden_states=True).hidden_states
    found = ours(ids, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_are_llamas():
    theirs = tiny.randomised(LlamaForCausalLM(LlamaConfig(**tiny.TEXT_SIZES)))
    ours = convert_llama(theirs).model.eval()
    ids = torch.randint(3, 90, (2, 12))
    labels = ids.masked_fill(torch.rand(2, 12) < 0.3, -100)
    losses = [model(ids, labels=labels).loss for model in (ours, theirs)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4)


def test_qk_norm_gives_qwen3():
    sizes = {**tiny.TEXT_SIZES, "head_dim": 8}
    config = Qwen3Config(**sizes, rms_norm_eps=1e-5)
    theirs = tiny.randomised(Qwen3ForCausalLM(config))
    ours = MM1ForCausalLM(tiny.text_config(head_dim=8, qk_norm=True)).eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits_and_tokens(ours, theirs)
