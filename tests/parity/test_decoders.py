"""`MM1ForCausalLM` is transformers' Llama, Mistral, Qwen2 and Qwen3."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mm1_hf import MM1ForCausalLM
from mm1_hf.conversion import convert_model

from ..conversion.originals import original
from ..conversion.test_decoders import VARIANTS
from ..model import tiny

ALL = {
    **{f"llama_{name}": changes for name, changes in VARIANTS.items()},
    "llama_all_heads_own_keys": {"num_key_value_heads": 4},
    "llama_one_key_for_all_heads": {"num_key_value_heads": 1},
    "mistral": None,
    "qwen2": None,
    "qwen3": None,
}


def decoder(name: str) -> PreTrainedModel:
    changes = ALL[name]
    if changes is None:
        return original(name)
    return tiny.randomised(LlamaForCausalLM(LlamaConfig(**{**tiny.TEXT_SIZES, **changes})))


def ours_of(theirs: PreTrainedModel) -> MM1ForCausalLM:
    return convert_model(theirs).model.eval()


@pytest.mark.parametrize("name", ALL)
def test_logits_and_greedy_generation_are_theirs(name):
    theirs = decoder(name)
    ours = ours_of(theirs)
    assert type(ours) is MM1ForCausalLM
    ids = torch.randint(3, 90, (2, 40))
    expected = theirs(ids).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=1e-5)
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **greedy), theirs.generate(ids, **greedy))


@pytest.mark.parametrize("name", ["llama_plain", "mistral", "qwen2", "qwen3"])
def test_every_hidden_state_is_theirs(name):
    theirs = decoder(name)
    ids = torch.randint(3, 90, (2, 12))
    expected = theirs(ids, output_hidden_states=True).hidden_states
    found = ours_of(theirs)(ids, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama_plain", "qwen2", "qwen3"])
def test_loss_and_gradients_are_theirs(name):
    theirs = decoder(name)
    ours = ours_of(theirs)
    ids = torch.randint(3, 90, (2, 12))
    labels = ids.masked_fill(torch.rand(2, 12) < 0.3, -100)
    losses = [model(ids, labels=labels).loss for model in (ours, theirs)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    found = dict(ours.named_parameters())
    for name_, parameter in theirs.named_parameters():
        torch.testing.assert_close(found[name_].grad, parameter.grad, atol=1e-5, rtol=1e-4)
