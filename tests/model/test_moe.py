"""The sparse decoder computes what its definition says, and works wherever the dense one does."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration, MM1TextConfig
from mm1_hf.model.moe_mm1 import MM1Experts, choose_experts

from . import tiny

SPARSE = {"num_experts": 4, "moe_every_n_layers": 2}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def decoder(**changes) -> MM1ForCausalLM:
    return tiny.randomised(MM1ForCausalLM(tiny.text_config(**{**SPARSE, **changes})))


def mm1(**changes) -> MM1ForConditionalGeneration:
    text = tiny.text_config(**{**SPARSE, **changes})
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(text_config=text)))


def text_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (2, 9))
    return {"input_ids": ids, "labels": ids.masked_fill(torch.rand(2, 9) < 0.3, -100)}


def image_batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([tiny.prompt([1, 5], "image", [6, 7, 8, 9])] * 2)
    labels = ids.masked_fill(ids == tiny.IMAGE, -100)
    return {"input_ids": ids, "labels": labels, "pixel_values": tiny.tiles(2)}


# Configuration.


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"num_experts": 4, "moe_every_n_layers": 2}, "dsds"),
        ({"num_experts": 4, "moe_every_n_layers": 4}, "ddds"),
        ({"num_experts": 4, "moe_every_n_layers": 1}, "ssss"),
        ({"num_experts": 4, "mlp_layer_types": ["sparse", "dense", "dense", "dense"]}, "sddd"),
    ],
)
def test_which_layers_are_sparse_is_explicit_and_saved(changes, kinds, tmp_path):
    config = tiny.text_config(num_hidden_layers=4, **changes)
    config.save_pretrained(tmp_path)
    again = MM1TextConfig.from_pretrained(tmp_path)
    assert "".join(kind[0] for kind in again.mlp_layer_types) == kinds
    model = MM1ForCausalLM(again)
    assert "".join("ds"[layer.is_sparse] for layer in model.model.layers) == kinds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 4}, "num_experts is 4, but the kinds of layers are None"),
        ({"moe_every_n_layers": 2}, "num_experts is None, but"),
        ({"num_experts": 4, "mlp_layer_types": ["sparse"]}, "each of the 2 layers"),
        ({"num_experts": 4, "mlp_layer_types": ["moe", "dense"]}, "'dense' or 'sparse'"),
        ({"num_experts": 4, "moe_every_n_layers": 0}, "moe_every_n_layers must be positive"),
        ({**SPARSE, "mlp_layer_types": ["sparse", "sparse"]}, "Give one of the two"),
        ({**SPARSE, "num_experts": 1}, "only 1 experts"),
        ({**SPARSE, "mlp_bias": True}, "experts have no bias"),
        ({**SPARSE, "router_capacity_factor": 0.0}, "router_capacity_factor must be positive"),
        ({**SPARSE, "router_balance": "both"}, "router_balance"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        tiny.text_config(**changes)


def test_a_dense_decoder_has_no_router_losses():
    config = tiny.text_config()
    assert (config.router_aux_loss_coef, config.router_z_loss_coef) == (0.0, 0.0)
    output = MM1ForCausalLM(config).train()(**text_batch(), output_router_logits=True)
    assert output.router_logits is None and output.aux_loss is None


# The block.


def plain_block(block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The definition, token by token."""
    found = []
    for token in tokens:
        probabilities = (block.gate.weight @ token).softmax(-1)
        chosen = probabilities.sort(descending=True).indices[:2]
        weights = probabilities[chosen] / probabilities[chosen].sum()
        output = torch.zeros_like(token)
        for weight, expert in zip(weights, chosen, strict=True):
            gate, up = (block.experts.gate_up_proj[expert] @ token).chunk(2)
            inner = nn.functional.silu(gate) * up
            output = output + weight * (block.experts.down_proj[expert] @ inner)
        found.append(output)
    return torch.stack(found)


IMPLEMENTATIONS = ["sorted_mm", "eager", "grouped_mm", "batched_mm"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_implementation_computes_the_definition(implementation):
    model = decoder()
    model.set_experts_implementation(implementation)
    block = model.model.layers[1].mlp
    states = torch.randn(2, 9, 24, requires_grad=True)
    expected = plain_block(block, states.flatten(0, 1)).view_as(states)
    found = block(states)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(found)
    inputs = [states, *block.parameters()]
    gradients = [torch.autograd.grad((out * direction).sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_implementation_can_be_chosen_when_loading(implementation, tmp_path):
    mm1().save_pretrained(tmp_path)
    model = MM1ForConditionalGeneration.from_pretrained(
        tmp_path, experts_implementation=implementation
    )
    assert model.model.language_model.config._experts_implementation == implementation


def test_equal_experts_are_one_dense_block():
    model = decoder()
    dense = MM1ForCausalLM(tiny.text_config())
    tiny.randomised(dense)
    block, plain = model.model.layers[1].mlp, dense.model.layers[1].mlp
    stacked = torch.cat([plain.gate_proj.weight, plain.up_proj.weight])
    with torch.no_grad():
        block.experts.gate_up_proj.copy_(stacked.expand_as(block.experts.gate_up_proj))
        block.experts.down_proj.copy_(plain.down_proj.weight.expand_as(block.experts.down_proj))
    states = torch.randn(2, 9, 24)
    torch.testing.assert_close(block(states), plain(states), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_router_computes_in_fp32(autocast):
    model = decoder() if autocast else decoder().to(torch.bfloat16)
    router = model.model.layers[1].mlp.gate
    states = torch.randn(1, 5, 24, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, weights, _ = router(states)
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.equal(logits, (states.float() @ router.weight.float().T).flatten(0, 1))


def test_new_experts_and_routers_are_initialised(tmp_path):
    model = MM1ForCausalLM(tiny.text_config(**{**SPARSE, "hidden_size": 64, "num_experts": 8}))
    block = model.model.layers[1].mlp
    for weight in block.parameters():
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    # Experts differ from each other from the start.
    assert not torch.equal(block.experts.down_proj[0], block.experts.down_proj[1])


# Room.


def room(probabilities: list[list[float]], factor: float, **kwargs) -> list[list[bool]]:
    logits = torch.tensor([probabilities]).log()
    choices = choose_experts(logits, num_chosen=2, capacity_factor=factor, **kwargs)
    assert (choices.weights[~choices.kept] == 0).all()
    return choices.kept[0].tolist()


def test_first_choices_are_placed_before_second_choices():
    # Two tokens like expert 0 second best, and come before the one that likes it best.
    rows = [[0.3, 0.6, 0.1], [0.3, 0.6, 0.1], [0.6, 0.1, 0.3]]
    # One place for each expert.
    assert room(rows, 1.0) == [[True, False], [False, False], [True, True]]


def test_a_dropped_choice_leaves_the_weights_of_the_others():
    logits = torch.tensor([[[0.5, 0.3, 0.2]] * 3]).log()
    limited = choose_experts(logits, num_chosen=2, capacity_factor=1.0)
    free = choose_experts(logits, num_chosen=2)
    assert free.kept.all()
    torch.testing.assert_close(limited.weights, free.weights * limited.kept)


def test_padding_takes_no_room_and_gives_none():
    rows = [[0.1, 0.6, 0.3], [0.3, 0.6, 0.1], [0.6, 0.1, 0.3]]
    padded = [[0.1, 0.6, 0.3], *rows, [0.6, 0.3, 0.1]]
    valid = torch.tensor([[False, True, True, True, False]])
    assert room(padded, 1.0, valid=valid)[1:4] == room(rows, 1.0)


def test_the_default_drops_nothing_and_a_capacity_holds_in_training_only():
    free, limited = decoder(), decoder(router_capacity_factor=0.5)
    limited.load_state_dict(free.state_dict())
    inputs = text_batch()
    assert torch.equal(free(**inputs).logits, limited(**inputs).logits)
    free, limited = free.train(), limited.train()
    outputs = [model(**inputs, skip_logits=False).logits for model in (free, limited)]
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("padding", ["mask", "pack"])
def test_what_stands_in_the_padding_changes_nothing_of_a_limited_decoder(padding):
    model = decoder(router_capacity_factor=0.5).train()
    found = []
    for filler in (3, 50):
        ids = torch.tensor([[5, 6, 7, 8, 9, 10, filler, filler + 1]])
        labels = ids.clone()
        labels[:, [0, 6, 7]] = -100
        if padding == "mask":
            shown = {"attention_mask": torch.tensor([[1] * 6 + [0] * 2])}
        else:
            shown = {"position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1]])}
        output = model(ids, labels=labels, skip_logits=False, **shown)
        found.append((output.logits[:, :6], output.loss, output.aux_loss, output.z_loss))
    torch.testing.assert_close(*found, atol=0, rtol=0)


# As the dense decoder.


def test_the_cache_changes_nothing():
    model = decoder()
    ids = torch.randint(3, 90, (2, 9))
    whole = model(ids, use_cache=False).logits
    first = model(ids[:, :5])
    rest = model(ids[:, 5:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, atol=1e-5, rtol=1e-5)


def test_left_padding_changes_no_answer():
    model = decoder()
    short, long = [5, 6, 7], [8, 9, 10, 11, 12]
    ids = torch.tensor([[0, 0, *short], long])
    found = model.generate(ids, attention_mask=(ids != 0).long(), **GREEDY)
    for row, sample in zip(found, (short, long), strict=True):
        alone = model.generate(torch.tensor([sample]), **GREEDY)
        assert row[5:].tolist() == alone[0, len(sample) :].tolist()


def test_a_static_cache_generates_what_a_dynamic_one_does():
    model = decoder()
    ids = torch.randint(3, 90, (2, 5))
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids, **GREEDY, **static), model.generate(ids, **GREEDY))


@pytest.mark.parametrize("capacity", [None, 1.0])
def test_activation_checkpointing_changes_no_gradient(capacity):
    model = decoder(router_capacity_factor=capacity).train()
    inputs = text_batch()
    model(**inputs).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    tiny.enable_activation_checkpointing(model)
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model(**inputs).loss.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_checkpointing_that_hides_the_routers_is_refused():
    model = decoder().train()
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=True)
    model.enable_input_require_grads()
    with pytest.raises(ValueError, match=r"carry no gradient.*'use_reentrant': False"):
        model(**text_batch())


def test_every_parameter_learns_also_from_text_alone():
    model = mm1().train()
    for inputs in (image_batch(), text_batch()):
        model.zero_grad()
        model(**inputs).loss.backward()
        assert tiny.parameters_without_gradient(model) == []
        gate = model.model.language_model.layers[1].mlp.gate
        assert gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize("implementation", ["sorted_mm", "eager", "grouped_mm"])
def test_a_sparse_model_saves_and_loads(implementation, tmp_path):
    model = mm1()
    model.set_experts_implementation(implementation)
    model.save_pretrained(tmp_path)
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    again.set_experts_implementation(implementation)
    inputs = image_batch()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


# peft asks newer transformers by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_reaches_the_experts_and_merges_into_them():
    model = mm1()
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=2, target_modules=[], target_parameters=names, lora_dropout=0.0)
    inputs = image_batch()
    adapted = get_peft_model(model, config)
    learning = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert len(learning) == 4 and all(".layers.1.mlp.experts." in name for name in learning)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.5)
    output = adapted.train()(**inputs)
    assert output.aux_loss is not None
    output.loss.backward()
    assert all(one.grad.abs().max() > 0 for one in adapted.parameters() if one.requires_grad)
    expected = adapted.eval()(**inputs).logits
    merged = adapted.merge_and_unload()
    assert any(isinstance(one, MM1Experts) for one in merged.modules())
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_router_logits_are_returned_where_they_are_wanted():
    model = mm1()
    inputs = image_batch()
    assert model(**inputs).router_logits is None
    assert model.train()(**inputs).router_logits[0].shape == (20, 4)
    assert model(**inputs, output_router_logits=False).aux_loss is None
    inner = model.eval().model(
        input_ids=inputs["input_ids"],
        pixel_values=inputs["pixel_values"],
        output_router_logits=True,
    )
    assert len(inner.router_logits) == 1
    output = model(**inputs, output_router_logits=True)
    assert output.aux_loss is not None and output.z_loss is not None
    # Out of training the loss is that of tokens alone, comparable with a dense model's.
    torch.testing.assert_close(output.loss, model(**inputs).loss, atol=0, rtol=0)
