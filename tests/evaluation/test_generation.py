import pytest
import torch
from torch import nn

from mm1_hf.evaluation.generation import (
    cut_at_stop,
    end_tokens,
    evaluation_mode,
    generate_answers,
)
from mm1_hf.evaluation.prompts import Question, encode

from . import small_tasks as small


@pytest.fixture(scope="module")
def processor():
    return small.processor()


@pytest.fixture(scope="module")
def model(processor):
    return small.model(processor)


def answer(model, processor, number=6, *, stops=(), max_new_tokens=24):
    questions = [Question(example) for example in small.examples(number)]
    inputs = encode(
        questions, processor, small.task(), style="continuation", high_resolution_last=3
    )
    return generate_answers(model, processor, inputs, max_new_tokens=max_new_tokens, stops=stops)


def test_answers_are_cut_before_the_first_stop(model, processor):
    """And alike in a batch whose other rows stop elsewhere, or not at all."""
    free = answer(model, processor)
    stops = (free[0].text[3:5], free[1].text[5])
    assert all(stops)
    found = answer(model, processor, stops=stops)
    assert [one.text for one in found] == [cut_at_stop(one.text, stops).strip() for one in free]
    assert {one.ending for one in found} >= {"stop"}
    alone = answer(model, processor, 1, stops=stops)
    assert alone[0] == found[0]


def test_a_batch_ends_with_its_last_row(model, processor):
    free = answer(model, processor)
    steps = []
    hook = model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    stops = tuple(one.text[2] for one in free)
    found = answer(model, processor, stops=stops)
    hook.remove()
    assert len(steps) == max(one.tokens for one in found) < 24


def test_a_stop_may_span_tokens_and_end_an_answer_at_once(processor):
    speaker = small.Speaker(processor, lambda text: "QuQuestion: more")
    found = answer(speaker, processor, stops=("Question",))
    assert {(one.text, one.ending) for one in found} == {("Qu", "stop")}
    speaker = small.Speaker(processor, lambda text: "\nred")
    assert {one.text for one in answer(speaker, processor, stops=("\n",))} == {""}


def test_endings_are_told(processor):
    speaker = small.Speaker(processor, lambda text: " red ")
    assert {(one.text, one.ending) for one in answer(speaker, processor)} == {("red", "end")}
    cut = answer(speaker, processor, max_new_tokens=2)
    assert {(one.ending, one.tokens) for one in cut} == {("length", 2)}


def test_an_untrained_model_writes_no_placeholders(model, processor):
    before = answer(model, processor)

    def prefer_placeholders(module, inputs, logits):
        return logits + 1e4 * (torch.arange(logits.shape[-1]) == processor.image_token_id)

    hook = model.lm_head.register_forward_hook(prefer_placeholders)
    assert answer(model, processor) == before
    hook.remove()


def test_the_ends_of_model_and_tokenizer_both_end(processor):
    model = small.model(processor)
    end = processor.tokenizer.eos_token_id
    assert end_tokens(small.Speaker(processor, str), processor.tokenizer) == [end]
    for own, expected in ((None, [end]), (7, [7, end]), ([7, end], [7, end])):
        model.generation_config.eos_token_id = own
        assert end_tokens(model, processor.tokenizer) == expected


def test_every_part_gets_its_mode_back(processor):
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.ReLU()))
    model.train()
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_recommended_sampling_changes_nothing(model, processor):
    before = answer(model, processor)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    assert answer(model, processor) == before
