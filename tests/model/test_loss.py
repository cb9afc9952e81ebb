import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CohereConfig, Gemma2Config, GraniteConfig
from transformers.loss.loss_utils import ForCausalLMLoss

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration
from mm1_hf.model import loss_mm1
from mm1_hf.model.loss_mm1 import VocabularyHead, next_token_loss

from . import tiny

SAMPLE = tiny.prompt([1, 5], "image", [6, 7, 8, 9])
RELATIVE = 1e-6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Even the smallest batch needs several chunks, the last of them shorter."""
    monkeypatch.setattr(loss_mm1, "_chunk_rows", lambda device: 3)


def decoder(**changes) -> MM1ForCausalLM:
    return tiny.randomised(MM1ForCausalLM(tiny.text_config(**changes))).train()


def mm1(**changes) -> MM1ForConditionalGeneration:
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes))).train()


def text_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (2, 9))
    labels = ids.masked_fill(torch.rand(2, 9) < 0.4, -100)
    return {"input_ids": ids, "labels": labels}


def image_batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([SAMPLE, SAMPLE])
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(ids == tiny.IMAGE, -100),
        "pixel_values": tiny.tiles(2),
    }


def plain_loss(model: nn.Module, inputs: dict[str, torch.Tensor], **kwargs) -> torch.Tensor:
    """The loss transformers computes, from whole logits that carry their graph."""
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    logits = model(**inputs, use_cache=False).logits
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], **kwargs)


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_alike(found, expected, *, relative: float = RELATIVE) -> None:
    assert found.keys() == expected.keys()
    # A bias of keys has the gradient 0, of which rounding makes noise: all are held against a
    # share of the largest.
    floor = 0.01 * max(value.float().norm() for value in expected.values())
    for name, value in expected.items():
        error = (found[name].float() - value.float()).norm()
        assert error <= relative * max(value.float().norm(), floor), name


def assert_as_plain(model, inputs, *, relative: float = RELATIVE, **kwargs) -> None:
    expected = plain_loss(model, inputs, **kwargs)
    expected_gradients = gradients(model, expected)
    output = model(**inputs, **kwargs)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=relative, atol=0)
    assert_alike(gradients(model, output.loss), expected_gradients, relative=10 * relative)


@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(7)])
@pytest.mark.parametrize("tied", [True, False])
def test_value_and_gradients_are_those_of_whole_logits(tied, num_items):
    kwargs = {} if num_items is None else {"num_items_in_batch": num_items}
    assert_as_plain(decoder(tie_word_embeddings=tied), text_batch(), **kwargs)
    text = tiny.text_config(tie_word_embeddings=tied)
    model = mm1(text_config=text)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    assert_as_plain(model, image_batch(), **kwargs)


@pytest.mark.parametrize("supervised", ["all", "one", "last"])
def test_any_pattern_of_labels_gives_the_plain_loss(supervised):
    inputs = text_batch()
    labels = inputs["input_ids"].clone()
    if supervised == "one":
        labels[:] = -100
        labels[1, 4] = 8
    if supervised == "last":
        labels[:, :-1] = -100
    assert_as_plain(decoder(), inputs | {"labels": labels})


def test_a_bias_of_the_head_counts():
    model = decoder()
    model.set_output_embeddings(nn.Linear(24, tiny.VOCABULARY, bias=True))
    tiny.randomised(model).train()
    assert isinstance(model.lm_head, VocabularyHead)
    assert_as_plain(model, text_batch())


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor, and counts matrix products."""

    def __init__(self):
        super().__init__()
        self.numel, self.products = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.__name__
        self.products += name.startswith(("mm", "addmm"))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_logits_never_exist_whole():
    vocabulary, supervised = 1000, 40
    head = VocabularyHead(4, vocabulary, bias=False)
    states = torch.randn(1, 4 * supervised, 4, requires_grad=True)
    labels = torch.full((1, 4 * supervised), -100)
    labels[:, ::4] = 5
    with Largest() as seen:
        next_token_loss(head, states, labels).backward()
    assert seen.numel == max(3 * vocabulary, head.weight.numel())


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_only_supervised_positions_reach_the_head(kind):
    model, inputs, rows = mm1(), image_batch(), []
    if kind == "foreign":
        model.lm_head = nn.Sequential(model.lm_head)
    model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    model(**inputs)
    assert sum(rows) == (inputs["labels"][:, 1:] != -100).sum()
    assert len(rows) == (1 if kind == "ours" else 4)


def test_reading_computes_no_gradients():
    head, states = VocabularyHead(4, 50, bias=False), torch.randn(1, 5, 4, requires_grad=True)
    labels = torch.ones(1, 5).long()
    with Largest() as training:
        expected = next_token_loss(head, states, labels)
    with torch.no_grad(), Largest() as reading:
        found = next_token_loss(head, states, labels)
    assert torch.equal(found, expected) and not found.requires_grad
    assert (training.products, reading.products) == (6, 2)


def test_a_frozen_head_costs_no_gradient_of_its_own():
    model, inputs = decoder(), text_batch()
    model.lm_head.requires_grad_(False)
    assert_as_plain(model, inputs)
    assert model.lm_head.weight.grad is None


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_a_batch_without_labels_has_loss_zero_and_gradients_zero(kind, num_items):
    model, inputs = mm1(), image_batch()
    if kind == "foreign":
        model.lm_head = nn.Sequential(model.lm_head)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss = model(**inputs, num_items_in_batch=num_items).loss
    assert loss == 0
    found = gradients(model, loss)
    assert not tiny.parameters_without_gradient(model)
    assert not any(gradient.any() for gradient in found.values())


def test_halves_of_precision_agree_with_whole_logits():
    inputs = text_batch()
    model = decoder().to(torch.bfloat16)
    assert_as_plain(model, inputs, relative=5e-3)
    assert model(**inputs).loss.dtype == torch.float32


def test_autocast_computes_the_head_in_its_dtype():
    model, inputs = decoder(), text_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain_loss(model, inputs)
        expected_gradients = gradients(model, expected)
        loss = model(**inputs).loss
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert_alike(gradients(model, loss), expected_gradients, relative=2e-2)


SCALED = {
    "granite": GraniteConfig(**tiny.TEXT_SIZES, logits_scaling=3.0),
    "cohere": CohereConfig(**tiny.TEXT_SIZES, logit_scale=0.5),
    "gemma2": Gemma2Config(**tiny.TEXT_SIZES, head_dim=8, final_logit_softcapping=2.0),
}


@pytest.mark.parametrize("name", SCALED)
def test_what_foreign_decoders_do_to_logits_is_kept(name):
    model = mm1(text_config=copy.deepcopy(SCALED[name]))
    assert_as_plain(model, image_batch())


# peft still asks for the old name of a property that transformers renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["lora", "trained_whole"])
def test_an_adapted_head_trains_as_with_whole_logits(kind):
    adapter = {
        "lora": {"target_modules": ["lm_head"], "init_lora_weights": False},
        "trained_whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    }[kind]
    model = get_peft_model(decoder(), LoraConfig(r=2, **adapter)).train()
    assert_as_plain(model, text_batch())


def test_a_resized_vocabulary_keeps_its_head():
    model = decoder()
    model.resize_token_embeddings(tiny.VOCABULARY + 6, mean_resizing=False)
    assert isinstance(model.lm_head, VocabularyHead)
    assert_as_plain(model, text_batch())


def test_labels_may_come_shifted():
    for model, inputs in ((decoder(), text_batch()), (mm1(), image_batch())):
        expected = model(**inputs).loss
        shifted = F.pad(inputs.pop("labels"), (0, 1), value=-100)[:, 1:]
        output = model(**inputs, shift_labels=shifted)
        assert torch.equal(output.loss, expected) and output.logits is None


@pytest.mark.parametrize("wish", ["eval", "no_labels", "positions", "switch"])
def test_whoever_asks_for_logits_gets_them(wish):
    model, inputs = mm1(), image_batch()
    expected_loss = model(**inputs).loss
    labels = inputs.pop("labels")
    expected = model(**inputs).logits
    asked = {
        "eval": {"labels": labels},
        "no_labels": {},
        "positions": {"labels": labels, "logits_to_keep": 2},
        "switch": {"labels": labels, "skip_logits": False},
    }[wish]
    output = model.train(wish != "eval")(**inputs, **asked)
    expected = expected[:, -2:] if wish == "positions" else expected
    torch.testing.assert_close(output.logits, expected, rtol=1e-5, atol=1e-5)
    if wish != "no_labels":
        torch.testing.assert_close(output.loss, expected_loss, rtol=RELATIVE, atol=0)


def test_a_training_step_returns_the_loss_first_and_no_logits():
    model, inputs = mm1(), image_batch()
    output = model(**inputs)
    assert "logits" not in output and output[0] is output.loss
    plain = model(**inputs, return_dict=False)
    assert torch.equal(plain[0], output.loss) and plain[0].ndim == 0


def test_in_evaluation_logits_can_be_left_out_too():
    model, inputs = mm1().eval(), image_batch()
    with_logits = model(**inputs)
    without = model(**inputs, skip_logits=True)
    assert without.logits is None
    torch.testing.assert_close(without.loss, with_logits.loss, rtol=RELATIVE, atol=0)


def test_skipping_logits_without_labels_is_an_error():
    with pytest.raises(ValueError, match="skip_logits=True without labels"):
        decoder()(torch.ones(1, 3).long(), skip_logits=True)


def test_somebodys_own_loss_sees_whole_logits():
    model, inputs = mm1(), image_batch()
    seen = {}

    def own(logits, labels, vocab_size, **kwargs):
        seen.update(kwargs, shape=logits.shape, vocab_size=vocab_size)
        return logits.sum()

    model.loss_function = own
    output = model(**inputs, num_items_in_batch=3)
    assert seen["shape"] == (2, len(SAMPLE), tiny.VOCABULARY)
    assert (seen["vocab_size"], seen["num_items_in_batch"]) == (tiny.VOCABULARY, 3)
    assert torch.equal(output.loss, output.logits.sum())


def test_going_back_twice_is_an_error_and_not_a_wrong_gradient():
    loss = decoder()(**text_batch()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="Call the model again"):
        loss.backward()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
def test_a_compiled_training_step_has_the_same_loss():
    model, inputs = decoder(num_hidden_layers=1), text_batch()
    expected = model(**inputs).loss
    expected_gradients = gradients(model, expected)
    compiled = torch.compile(model, backend="aot_eager")
    loss = compiled(**inputs).loss
    torch.testing.assert_close(loss, expected)
    assert_alike(gradients(model, loss), expected_gradients, relative=1e-4)
