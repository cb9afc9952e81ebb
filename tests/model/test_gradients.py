import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mm1_hf import MM1ForConditionalGeneration

from . import tiny

# peft still asks for the old name of a property that transformers renamed.
peft_asks_for_the_old_name = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
FROZEN = {
    "none": [],
    "tower": ["vision_tower"],
    "tower_and_decoder": ["vision_tower", "language_model", "lm_head"],
    "connector": ["connector"],
    "decoder": ["language_model", "lm_head"],
    "all_but_head": ["vision_tower", "connector", "language_model"],
}
ONE = tiny.prompt([1, 5], "image", [6, 7])
NONE = tiny.prompt([1, 11, 12, 13])


def mm1(*, frozen: str = "none", **changes) -> MM1ForConditionalGeneration:
    model = tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes))).train()
    for name in FROZEN[frozen]:
        part = model.lm_head if name == "lm_head" else getattr(model.model, name)
        part.requires_grad_(False)
    return model


def batch(content: str) -> dict[str, torch.Tensor]:
    if content == "text":
        ids = torch.tensor([NONE, NONE])
        return {"input_ids": ids, "labels": ids}
    ids = torch.tensor([ONE, ONE])
    pixels = tiny.tiles(2)
    if content == "uint8":
        pixels = torch.randint(0, 256, pixels.shape, dtype=torch.uint8)
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(ids == tiny.IMAGE, -100),
        "pixel_values": pixels,
    }


def tower_calls(model: nn.Module) -> list[torch.Tensor]:
    """The patches that the tower returns, one entry per call."""
    calls: list[torch.Tensor] = []
    tower = model.get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda module, args, output: calls.append(output[0]))
    return calls


def wrong_gradients(model: nn.Module) -> list[str]:
    """Trainable parameters without a gradient, and frozen ones with one."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad != (parameter.grad is not None)
    ]


@pytest.mark.parametrize("checkpointing", ["off", "on", "inputs_need_gradients"])
@pytest.mark.parametrize("content", ["images", "uint8", "text"])
@pytest.mark.parametrize("frozen", FROZEN)
def test_what_is_trainable_gets_a_gradient_and_what_is_frozen_none(frozen, content, checkpointing):
    model = mm1(frozen=frozen)
    if checkpointing != "off":
        tiny.enable_activation_checkpointing(model)
    if checkpointing == "inputs_need_gradients":
        model.enable_input_require_grads()
    calls = tower_calls(model)
    model(**batch(content)).loss.backward()
    assert wrong_gradients(model) == []
    assert len(calls) == 1


@pytest.mark.parametrize("text", tiny.text_configs())
@pytest.mark.parametrize("vision", tiny.vision_configs())
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_foreign_parts_behind_a_frozen_tower_train_as_ours(vision, text, checkpointing):
    model = mm1(
        frozen="tower",
        vision_config=tiny.vision_configs()[vision],
        text_config=tiny.text_configs()[text],
    )
    if checkpointing == "on":
        tiny.enable_activation_checkpointing(model)
    for content in ("images", "text"):
        model.zero_grad()
        model(**batch(content)).loss.backward()
        assert wrong_gradients(model) == []


@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_a_frozen_tower_keeps_no_graph(vision):
    model = mm1(frozen="tower", vision_config=tiny.vision_configs()[vision])
    model.enable_input_require_grads()
    calls = tower_calls(model)
    for content in ("images", "text"):
        model(**batch(content)).loss.backward()
    assert [patches.requires_grad for patches in calls] == [False, False]


def test_pixels_that_ask_for_a_gradient_get_one_through_a_frozen_tower():
    model, inputs = mm1(frozen="tower"), batch("images")
    inputs["pixel_values"].requires_grad_()
    model(**inputs).loss.backward()
    assert inputs["pixel_values"].grad.any()


@peft_asks_for_the_old_name
@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize("where", ["vision_tower", "language_model"])
def test_adapters_train_wherever_they_are(where, checkpointing):
    base = mm1()
    if checkpointing == "on":
        tiny.enable_activation_checkpointing(base)
    target = rf"model\.{where}\.layers\.\d+\.self_attn\.(q|v)_proj"
    adapter = LoraConfig(r=2, target_modules=target, init_lora_weights=False)
    model = get_peft_model(base, adapter).train()
    calls = tower_calls(model.get_base_model())
    for content in ("images", "text"):
        model.zero_grad()
        model(**batch(content)).loss.backward()
        assert wrong_gradients(model) == []
    assert [patches.requires_grad for patches in calls] == [where == "vision_tower"] * 2


@pytest.mark.parametrize("frozen", ["none", "tower"])
def test_freezing_and_checkpointing_change_no_other_gradient(frozen):
    torch.manual_seed(1)
    whole, inputs = mm1(), batch("images")
    whole(**inputs).loss.backward()
    torch.manual_seed(1)
    model = mm1(frozen=frozen)
    tiny.enable_activation_checkpointing(model)
    model(**inputs).loss.backward()
    for (name, found), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
        if found.requires_grad:
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("content", ["images", "uint8", "text"])
@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_any_dtype_of_the_model_takes_any_dtype_of_pixels(vision, content, dtype):
    model = mm1(vision_config=tiny.vision_configs()[vision]).to(dtype)
    model(**batch(content)).loss.backward()
    assert wrong_gradients(model) == []


def test_embeddings_in_place_of_tokens_still_call_the_tower_once():
    model, inputs = mm1(), batch("text")
    calls = tower_calls(model)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    model(inputs_embeds=embeds, **inputs).loss.backward()
    assert len(calls) == 1
    embedding = "model.language_model.embed_tokens.weight"
    assert wrong_gradients(model) == [embedding]


@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_arguments_of_loss_and_packing_do_not_reach_the_tower(vision):
    model, seen = mm1(vision_config=tiny.vision_configs()[vision]), set()
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    packed = {
        "cu_seq_lens_q": torch.tensor([0, 3, 4], dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([0, 3, 4], dtype=torch.int32),
        "max_length_q": 3,
        "max_length_k": 3,
        "position_ids": torch.tensor([[0, 1, 2, 0]]),
        "num_items_in_batch": torch.tensor(3),
    }
    ids = torch.tensor([NONE])
    model(input_ids=ids, labels=ids, **packed).loss.backward()
    assert not seen & packed.keys()


@pytest.mark.parametrize("mode", ["evaluation", "no_grad"])
@pytest.mark.parametrize("tiles", [None, 0])
def test_text_that_is_only_read_calls_no_tower(mode, tiles):
    model = mm1().train(mode == "no_grad")
    calls = tower_calls(model)
    pixels = {} if tiles is None else {"pixel_values": tiny.tiles(0)}
    with torch.no_grad():
        model(**batch("text"), **pixels)
        model.eval().generate(torch.tensor([NONE]), max_new_tokens=2, **pixels)
    assert calls == []


GENERATIONS = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "samples": {"do_sample": True, "num_return_sequences": 2},
    "without_cache": {"use_cache": False},
}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("kind", GENERATIONS)
def test_no_tiles_at_all_generate_what_text_alone_does(kind, dtype):
    model, ids = mm1().eval(), torch.tensor([NONE, NONE])
    settings = {"max_new_tokens": 3, "pad_token_id": 0, **GENERATIONS[kind]}
    torch.manual_seed(2)
    expected = model.generate(ids, **settings)
    torch.manual_seed(2)
    empty = tiny.tiles(0).to(getattr(torch, dtype))
    assert torch.equal(model.generate(ids, pixel_values=empty, **settings), expected)
