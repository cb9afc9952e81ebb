"""Skip lists, and int8 weights in memory."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BitsAndBytesConfig, MixtralConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration
from mm1_hf.quantisation import (
    Int8Experts,
    Int8Linear,
    modules_to_not_convert,
    quantise_int8,
    round_to_int8,
)

from ..model import tiny

WIDE = {"hidden_size": 64, "intermediate_size": 128}
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}


def text_configs() -> dict:
    mixtral = MixtralConfig(
        **{**tiny.TEXT_SIZES, **WIDE}, num_local_experts=4, num_experts_per_tok=2
    )
    return {
        "dense": tiny.text_config(**WIDE),
        "sparse": tiny.text_config(**WIDE, **SPARSE),
        "mixtral": mixtral,
    }


def mm1(text: str = "dense", **changes) -> MM1ForConditionalGeneration:
    config = tiny.config(text_config=text_configs()[text], **changes)
    return tiny.randomised(MM1ForConditionalGeneration(config), gain=1.0)


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.tensor([tiny.prompt([1, 5], "image", [6, 7], "image", [8])])
    return {"input_ids": ids, "pixel_values": tiny.tiles(2)}


def linear_names(model, part: str) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(part)
    ]


def test_the_skip_list_keeps_every_layer_of_tower_and_connector_and_no_other():
    model = mm1()
    skipped = modules_to_not_convert(model.config)
    for name in linear_names(model, ""):
        inside = name.startswith(("model.vision_tower", "model.connector", "lm_head"))
        assert should_convert_module(name, skipped) is not inside, name
    # Why full names are needed.
    tower = linear_names(model, "model.vision_tower")[0]
    assert should_convert_module(tower, ["vision_tower"])


def test_what_is_kept_is_a_choice():
    config = tiny.config()
    assert modules_to_not_convert(config, keep=("lm_head",)) == ["lm_head"]
    assert modules_to_not_convert(config, keep=()) == []
    decoder = tiny.text_config()
    assert modules_to_not_convert(decoder, keep=("lm_head",)) == ["lm_head"]
    with pytest.raises(ValueError, match="the parts of this model are language_model, lm_head"):
        modules_to_not_convert(decoder)


@pytest.mark.parametrize("text", ["sparse", "mixtral"])
def test_experts_that_would_stay_as_they_are_must_be_accepted(text):
    config = tiny.config(text_config=text_configs()[text])
    with pytest.raises(ValueError, match="4 experts per sparse layer"):
        modules_to_not_convert(config)
    assert modules_to_not_convert(config, experts="keep")
    assert modules_to_not_convert(config, keep=("language_model", "lm_head"))


def test_four_bit_configurations_carry_the_skip_list_through_saving():
    skipped = modules_to_not_convert(tiny.config())
    four_bit = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skipped)
    again = BitsAndBytesConfig.from_dict(four_bit.to_dict())
    assert again.llm_int8_skip_modules == skipped
    assert again.quantization_method() == "fp4"


def test_rounding_is_within_half_a_step_of_every_channel():
    weight = torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None]
    weight[3] = 0
    rounded, scale = round_to_int8(weight)
    assert rounded.dtype is torch.int8
    error = (rounded * scale[:, None] - weight).abs()
    assert (error <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 5, 64), (0, 64), (300, 64)])
def test_an_int8_layer_is_the_layer_of_its_rounded_weights(shape):
    linear = torch.nn.Linear(64, 37)
    layer = Int8Linear(linear)
    rows = torch.randn(shape)
    weight = layer.weight.float() * layer.scale[:, None]
    expected = F.linear(rows.bfloat16().float(), weight, linear.bias)
    found = layer(rows)
    assert found.dtype == rows.dtype
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("text", text_configs())
def test_a_converted_model_answers_nearly_as_before(text):
    model, batch = mm1(text), inputs()
    with torch.no_grad():
        before = model(**batch).logits
        tokens = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
        report = quantise_int8(model)
        after = model(**batch).logits
        again = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert not torch.equal(before, after)
    assert F.cosine_similarity(before, after, dim=-1).min() > 0.999
    assert again.shape == tokens.shape
    agree = (before.argmax(-1) == after.argmax(-1)).float().mean()
    assert agree >= 0.9
    assert report.bytes_after < 0.75 * report.bytes_before
    kinds = {type(model.get_submodule(name)) for name in report.converted}
    assert kinds == ({Int8Linear} if text == "dense" else {Int8Linear, Int8Experts})


def test_tower_and_connector_stay_bit_equal_unless_asked_for():
    model, pixels = mm1(connector_config=tiny.connector_config(hidden_size=32)), tiny.tiles(2)
    with torch.no_grad():
        before = model.get_image_features(pixels).pooler_output
        report = quantise_int8(model)
        assert torch.equal(model.get_image_features(pixels).pooler_output, before)
        assert all("is kept" in report.kept[name] for name in linear_names(model, "model.vision"))
        quantise_int8(model, keep=("language_model", "lm_head"))
        after = model.get_image_features(pixels).pooler_output
    assert F.cosine_similarity(before, after, dim=-1).min() > 0.999


def test_layers_the_kernel_cannot_read_are_kept_and_named():
    model = tiny.randomised(MM1ForCausalLM(tiny.text_config(intermediate_size=64)))
    report = quantise_int8(model, keep=())
    assert report.kept["lm_head"] == "24 input channels are no multiple of 32"
    assert report.converted == [f"model.layers.{index}.mlp.down_proj" for index in (0, 1)]
    with pytest.raises(ValueError, match="Nothing could be converted"):
        quantise_int8(MM1ForCausalLM(tiny.text_config()), keep=())


def test_a_converted_model_is_not_saved(tmp_path):
    model = mm1()
    quantise_int8(model)
    with pytest.raises(ValueError, match="cannot be saved"):
        model.save_pretrained(tmp_path)


def test_the_loss_of_a_converted_head_is_that_of_its_logits():
    model, batch = mm1(), inputs()
    quantise_int8(model)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == tiny.IMAGE, -100)
    with torch.no_grad():
        outputs = model(**batch, labels=labels)
    expected = F.cross_entropy(outputs.logits[0, :-1], labels[0, 1:])
    torch.testing.assert_close(outputs.loss, expected)
