"""The language part of an MM1 is the text model that it was made of, weights shared."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration
from mm1_hf.evaluation.language import (
    TEXT_CORE,
    language_part,
    run_lm_eval,
    save_language_part,
)

from ...model import tiny
from .small_checkpoints import VOCABULARY, make_config, save_checkpoint

IDS = torch.tensor([[1, 5, 6, 7, 9, 11]])


def whole(text: str = "own", *, tied: bool = False) -> MM1ForConditionalGeneration:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
    part = tiny.text_config(**experts) if text == "sparse" else tiny.text_configs()[text]
    part.tie_word_embeddings = tied
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(text_config=part)))


@pytest.mark.parametrize("text", ["own", "llama", "qwen2", "mixtral", "sparse"])
def test_the_language_part_computes_what_the_whole_does_without_pictures(text):
    model = whole(text)
    language = language_part(model)
    with torch.no_grad():
        assert torch.equal(language(IDS).logits, model(IDS).logits)
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in language.parameters()} <= shared
    is_own = text in ("own", "sparse")
    assert isinstance(language, MM1ForCausalLM) == is_own


def test_a_composed_decoder_comes_out_as_it_went_in():
    llama = tiny.randomised(LlamaForCausalLM(tiny.text_configs()["llama"]))
    model = MM1ForConditionalGeneration.from_parts(
        vision=tiny.vision_config(), text=llama, connector=tiny.connector_config()
    ).eval()
    language = language_part(model)
    assert type(language) is LlamaForCausalLM
    expected = llama.state_dict()
    found = language.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_logits_that_a_decoder_rescales_are_rescaled_once():
    """Granite divides its logits; the head that both share must not do it a second time."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GraniteConfig(**tiny.TEXT_SIZES, logits_scaling=8.0)
    model = tiny.randomised(MM1ForConditionalGeneration(tiny.config(text_config=config)))
    with torch.no_grad():
        found = torch.log_softmax(language_part(model)(IDS).logits, -1)
        loss = model(IDS, labels=IDS).loss
    expected = -found[0, :-1].gather(-1, IDS[0, 1:, None]).mean()
    assert torch.allclose(loss, expected, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("text", ["own", "llama"])
def test_a_saved_language_part_loads_as_any_text_model(tmp_path, text, tied):
    part = tiny.text_configs()[text]
    part.vocab_size, part.tie_word_embeddings = VOCABULARY, tied
    model = save_checkpoint(tmp_path / "whole", config=make_config(part))
    folder = save_language_part(tmp_path / "whole", tmp_path / "language")
    language = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(language(IDS).logits, model(IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode("a red cat")) == "a red cat"
    with pytest.raises(FileExistsError, match="not empty"):
        save_language_part(tmp_path / "whole", folder)


def test_only_a_whole_model_has_a_language_part():
    with pytest.raises(ValueError, match="MM1ForCausalLM with model_type 'mm1_text'"):
        language_part(MM1ForCausalLM(tiny.text_config()))


def test_a_wrong_ability_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="'vision'"):
        run_lm_eval("no such folder", ability="vision")


def test_text_core_names_each_benchmark_once():
    assert len(set(TEXT_CORE)) == len(TEXT_CORE) == 9
