"""Outputs, attention and gradients: what holds for every class of ours."""

import inspect
import warnings

import pytest
import torch

from mm1_hf import MM1ForConditionalGeneration

from ..model import tiny
from .cases import CASES, READERS, SPARSE_CASES, WITH_HEAD, WITH_TOWER, answer, labelled

EVERY = pytest.mark.parametrize("case", CASES)
LAYERS = 2


@EVERY
def test_the_same_inputs_give_the_same_answer(case):
    model = CASES[case].make()
    assert torch.equal(answer(model, CASES[case].inputs), answer(model, CASES[case].inputs))


@EVERY
def test_a_batch_answers_as_its_rows_do(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    together = answer(model, inputs)
    for row in range(3):
        alone = answer(model, {name: one[row : row + 1] for name, one in inputs.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


@EVERY
def test_a_tuple_holds_what_the_named_output_holds(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    with torch.no_grad():
        named = model(**inputs, output_hidden_states=True, return_dict=True)
        plain = model(**inputs, output_hidden_states=True, return_dict=False)
    assert isinstance(plain, tuple)
    for one, other in zip(named.to_tuple(), plain, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)


@EVERY
def test_hidden_states_are_one_more_than_layers_and_attentions_as_many(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    model.set_attn_implementation("eager")
    for switch in ("argument", "configuration"):
        wanted = {"output_hidden_states": True, "output_attentions": True}
        if switch == "configuration":
            for name, value in wanted.items():
                for config in (model.config, model.config.get_text_config()):
                    setattr(config, name, value)
            wanted = {}
        with torch.no_grad():
            outputs = model(**inputs, **wanted)
        assert len(outputs.hidden_states) == LAYERS + 1
        assert len(outputs.attentions) == LAYERS
        length = outputs.hidden_states[0].shape[1]
        assert {one.shape for one in outputs.hidden_states} == {outputs.hidden_states[0].shape}
        assert {one.shape for one in outputs.attentions} == {(3, 4, length, length)}


@EVERY
def test_gradients_of_hidden_states_and_attentions_can_be_kept(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    kept = [outputs.hidden_states[0], outputs.attentions[0]]
    for one in kept:
        one.retain_grad()
    outputs[0].flatten()[0].backward(retain_graph=True)
    assert all(one.grad is not None for one in kept)


@EVERY
def test_attention_implementations_agree_and_can_be_changed_in_a_living_model(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    found = {}
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        inner = [module.config for module in model.modules() if hasattr(module, "is_causal")]
        assert {config._attn_implementation for config in inner} == {name}
        found[name] = answer(model, inputs)
    torch.testing.assert_close(found["eager"], found["sdpa"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", WITH_TOWER)
def test_each_part_can_attend_in_its_own_way(case):
    parts = {"vision_config": "eager", "text_config": "sdpa", "connector_config": "sdpa"}
    model = CASES[case].make()
    model.set_attn_implementation(parts)
    for name, expected in parts.items():
        assert getattr(model.config, name)._attn_implementation == expected
    assert model.base_model.vision_tower.config._attn_implementation == "eager"
    assert model.base_model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("case", WITH_TOWER)
def test_parts_and_whole_share_one_configuration(case):
    base = CASES[case].make().base_model
    assert base.vision_tower.config is base.config.vision_config
    assert base.connector.config is base.config.connector_config
    assert base.language_model.config is base.config.text_config


@pytest.mark.parametrize("case", READERS)
def test_embeddings_in_place_of_tokens_give_the_same_answer(case):
    model, inputs = CASES[case].make(), dict(CASES[case].inputs)
    expected = answer(model, inputs)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    assert torch.equal(answer(model, inputs), expected)


@pytest.mark.parametrize("case", WITH_HEAD)
def test_defaults_left_out_and_given_as_none_are_the_same(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    parameters = inspect.signature(model.forward).parameters.values()
    nothing = {one.name: None for one in parameters if one.default is None}
    given = {**nothing, **inputs}
    assert torch.equal(answer(model, given), answer(model, inputs))


@pytest.mark.parametrize("case", WITH_HEAD)
def test_shifted_labels_give_the_loss_of_plain_ones(case):
    model, inputs = CASES[case].make(), labelled(CASES[case].inputs)
    with torch.no_grad():
        expected = model(**inputs).loss
        labels = inputs.pop("labels")
        shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        torch.testing.assert_close(model(**inputs, shift_labels=shifted).loss, expected)


@pytest.mark.parametrize("checkpointing", ["none", "default", "not_reentrant", "reentrant"])
@pytest.mark.parametrize("case", WITH_HEAD)
def test_every_parameter_learns_with_and_without_activation_checkpointing(case, checkpointing):
    if checkpointing == "reentrant" and case in SPARSE_CASES:
        pytest.skip("refused, as test_checkpointing_that_hides_the_routers_is_refused says")
    model = CASES[case].make().train()
    if checkpointing != "none":
        kinds = {"use_reentrant": checkpointing == "reentrant"}
        kinds = {} if checkpointing == "default" else {"gradient_checkpointing_kwargs": kinds}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a newer name for the same
            model.gradient_checkpointing_enable(**kinds)
        if checkpointing == "reentrant":
            model.enable_input_require_grads()
    model(**labelled(CASES[case].inputs)).loss.backward()
    assert not tiny.parameters_without_gradient(model)


@EVERY
def test_activation_checkpointing_can_be_switched_on_and_off_again(case):
    model = CASES[case].make()
    switched = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    assert switched
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()
        assert all(module.gradient_checkpointing for module in switched)
        model.gradient_checkpointing_disable()
    assert not any(module.gradient_checkpointing for module in switched)


@EVERY
def test_inputs_can_be_made_to_ask_for_gradients_and_let_go_again(case):
    """What adapters need in front of frozen layers."""
    model, inputs = CASES[case].make(), CASES[case].inputs
    model.requires_grad_(False)
    seen = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(output.requires_grad)
    )
    model.enable_input_require_grads()
    assert model(**inputs)[0].requires_grad
    model.disable_input_require_grads()
    assert not model(**inputs)[0].requires_grad
    assert seen[-1] is False


@pytest.mark.parametrize("case", WITH_TOWER)
@pytest.mark.parametrize("as_tuple", [False, True])
def test_image_features_bring_the_states_of_the_tower(case, as_tuple):
    model = CASES[case].make()
    model.set_attn_implementation("eager")
    pixels = CASES[case].inputs["pixel_values"]
    with torch.no_grad():
        found = model.get_image_features(
            pixels, output_hidden_states=True, output_attentions=True, return_dict=not as_tuple
        )
    assert isinstance(found, tuple) is as_tuple
    if as_tuple:
        assert found[1].shape == (3, 4, 24)
        return
    assert found.last_hidden_state.shape == (3, 17, 32)
    assert found.pooler_output.shape == (3, 4, 24)
    assert {one.shape for one in found.hidden_states} == {(3, 17, 32)}
    assert len(found.hidden_states) == LAYERS + 1
    assert {one.shape for one in found.attentions} == {(3, 4, 17, 17)}
    assert len(found.attentions) == LAYERS


@pytest.mark.parametrize("case", SPARSE_CASES)
def test_router_logits_come_once_per_sparse_layer_by_argument_and_by_configuration(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    tokens = inputs["input_ids"].numel()
    with torch.no_grad():
        assert not model(**inputs).router_logits
        by_argument = model(**inputs, output_router_logits=True).router_logits
        model.config.get_text_config().output_router_logits = True
        model.config.output_router_logits = True
        by_configuration = model(**inputs).router_logits
    for found in (by_argument, by_configuration):
        assert [one.shape for one in found] == [(tokens, 4)]


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_rescaled_positions_change_long_answers(kind):
    """`dynamic` changes nothing until a text is longer than those of training."""
    short, long = (torch.arange(length)[None] % 90 + 5 for length in (8, 48))
    plain = CASES["decoder"].make(max_position_embeddings=32)
    scaling = {"rope_type": kind, "factor": 4.0, "rope_theta": 10_000.0}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = 8
    scaled = CASES["decoder"].make(max_position_embeddings=32, rope_parameters=scaling)
    scaled.load_state_dict(plain.state_dict())
    same = torch.allclose(
        answer(plain, {"input_ids": short}), answer(scaled, {"input_ids": short}), atol=1e-5
    )
    assert same is (kind == "dynamic")
    long = {"input_ids": long}
    assert not torch.allclose(answer(plain, long), answer(scaled, long), atol=1e-5)


@pytest.mark.parametrize("case", WITH_HEAD)
def test_generation_returns_scores_states_and_attentions_of_every_step(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    model.set_attn_implementation("eager")
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    settings = {"max_new_tokens": 3, "eos_token_id": None, "pad_token_id": 0}
    wanted = ("scores", "logits", "hidden_states", "attentions")
    for way in ({}, {"num_beams": 2}, {"do_sample": True}, {"do_sample": True, "num_beams": 2}):
        found = model.generate(
            **inputs,
            **settings,
            **way,
            **{f"output_{name}": True for name in wanted},
            return_dict_in_generate=True,
        )
        assert all(len(getattr(found, name)) == 3 for name in wanted)
        assert all(len(step) == LAYERS + 1 for step in found.hidden_states)
        assert all(len(step) == LAYERS for step in found.attentions)
        assert found.sequences.shape == (3, inputs["input_ids"].shape[1] + 3)


@pytest.mark.parametrize("case", WITH_HEAD)
def test_a_decoder_that_guesses_ahead_changes_no_greedy_answer(case):
    """A decoder alone: transformers gives its assistant no pictures, and ours asks for them."""
    model, assistant = CASES[case].make(), CASES["causal"].make()
    inputs = {name: one[:1] for name, one in CASES[case].inputs.items()}
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for one in (model, assistant):
        one.generation_config.suppress_tokens = [tiny.IMAGE]
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, assistant_model=assistant), expected)
    sampled = {**settings, "do_sample": True}
    assert model.generate(**inputs, **sampled, assistant_model=assistant).shape == expected.shape


@pytest.mark.parametrize("case", WITH_HEAD)
def test_generation_goes_on_from_a_returned_cache(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(**inputs, **settings, max_new_tokens=5)
    first = model.generate(**inputs, **settings, max_new_tokens=2, return_dict_in_generate=True)
    ones = torch.ones_like(first.sequences)
    found = model.generate(
        input_ids=first.sequences,
        attention_mask=ones,
        past_key_values=first.past_key_values,
        **settings,
        max_new_tokens=3,
    )
    assert torch.equal(found, expected)


def test_generation_without_a_prompt_begins_with_the_beginning_of_text():
    model = MM1ForConditionalGeneration(tiny.config()).eval()
    model.generation_config.bos_token_id = 1
    found = model.generate(max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert found.shape == (1, 3) and found[0, 0] == 1


@pytest.mark.parametrize("case", WITH_HEAD)
def test_a_mask_of_four_dimensions_is_taken_as_it_is(case):
    model, inputs = CASES[case].make(), CASES[case].inputs
    length = inputs["input_ids"].shape[1]
    causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    mask = causal.expand(3, 1, -1, -1)
    found = answer(model, {**inputs, "attention_mask": mask}, use_cache=False)
    torch.testing.assert_close(found, answer(model, inputs), rtol=0, atol=1e-5)
