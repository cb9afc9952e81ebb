"""Every connector between every vision tower and every decoder; composing, loading, dtypes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlamaModel,
)

from mm1_hf import (
    MM1Config,
    MM1Connector,
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1Model,
    MM1TextModel,
    MM1VisionModel,
)

from . import tiny


def batch(num_image_tokens: int = 4) -> dict[str, torch.Tensor]:
    sample = tiny.prompt([1, 5], "image", [6], "image", [7, 8], num_image_tokens=num_image_tokens)
    return {"input_ids": torch.tensor([sample]), "pixel_values": tiny.tiles(2)}


def mm1(**changes) -> MM1ForConditionalGeneration:
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes)))


@pytest.mark.parametrize("connector", tiny.CONNECTOR_TYPES)
@pytest.mark.parametrize("text", tiny.text_configs())
@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_every_composition_learns_generates_and_loads(connector, vision, text, tmp_path):
    model = mm1(
        vision_config=tiny.vision_configs()[vision],
        connector_config=tiny.connector_config(connector),
        text_config=tiny.text_configs()[text],
    )
    inputs = batch(model.config.num_image_tokens)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, -100)
    model.train()(**inputs, labels=labels).loss.backward()
    assert not tiny.parameters_without_gradient(model)
    model.zero_grad()
    model.eval()
    length = inputs["input_ids"].shape[1]
    tokens = model.generate(
        **inputs, max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert tokens.shape == (1, length + 2)

    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**inputs).logits
        for loader in (MM1ForConditionalGeneration, AutoModelForImageTextToText):
            again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
            assert type(again) is MM1ForConditionalGeneration
            assert not any(info.values()), info
            assert torch.equal(again.eval()(**inputs).logits, expected)


def pollute_memory() -> None:
    """Fill memory that is freed again, so that what is never initialised is seen as nonsense."""
    blocks = [torch.full((size,), float("nan")) for size in (64, 384, 512, 1024, 4096) * 50]
    del blocks


@pytest.mark.parametrize("connector", tiny.CONNECTOR_TYPES)
def test_a_checkpoint_without_connector_leaves_a_new_one_not_garbage(connector, tmp_path):
    config = tiny.config(connector_config=tiny.connector_config(connector))
    model = MM1ForConditionalGeneration(config)
    kept = {k: v for k, v in model.state_dict().items() if "connector" not in k}
    model.save_pretrained(tmp_path, state_dict=kept)
    pollute_memory()
    again, info = MM1ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] and all("connector" in key for key in info["missing_keys"])
    for name, parameter in again.model.connector.named_parameters():
        assert parameter.isfinite().all(), name
        if parameter.ndim > 1:
            assert 0.01 < parameter.std() < 0.03, name
        else:
            assert parameter.unique().tolist() in ([0.0], [1.0]), name
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("missing", ["vision_tower", "language_model", "lm_head"])
def test_any_missing_part_is_newly_initialised(missing, tmp_path):
    model = MM1ForConditionalGeneration(tiny.config())
    kept = {k: v for k, v in model.state_dict().items() if missing not in k}
    model.save_pretrained(tmp_path, state_dict=kept)
    pollute_memory()
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    for name, parameter in again.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 2, name
        # Memory that nobody wrote is often zero.
        assert parameter.any() or name.endswith("bias"), name


@pytest.mark.parametrize("text", tiny.text_configs())
@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_buffers_are_the_same_after_loading(vision, text, tmp_path):
    model = mm1(vision_config=tiny.vision_configs()[vision], text_config=tiny.text_configs()[text])
    model.save_pretrained(tmp_path)
    pollute_memory()
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    expected = dict(model.named_buffers())
    for name, buffer in again.named_buffers():
        assert torch.equal(buffer, expected[name]), name


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", ["own", "llama"])
@pytest.mark.parametrize("vision", ["own", "clip"])
def test_all_parts_have_one_dtype(vision, text, dtype, tmp_path):
    config = tiny.config(
        vision_config=tiny.vision_configs()[vision], text_config=tiny.text_configs()[text]
    )

    def dtypes(model: nn.Module) -> set[torch.dtype]:
        return {parameter.dtype for parameter in model.parameters()}

    model = MM1ForConditionalGeneration._from_config(config, dtype=dtype)
    assert dtypes(model) == {dtype}
    logits = model(**batch()).logits
    assert logits.dtype == dtype and logits.isfinite().all()
    model.save_pretrained(tmp_path)
    assert dtypes(MM1ForConditionalGeneration.from_pretrained(tmp_path)) == {dtype}
    for other in DTYPES:
        loaded = MM1ForConditionalGeneration.from_pretrained(tmp_path, dtype=other)
        assert dtypes(loaded) == {other}
    # A decoder that was saved in bf16 must not leave a mixed model behind.
    nested = MM1Config.from_dict(json.loads(model.config.to_json_string()))
    assert dtypes(MM1ForConditionalGeneration(nested)) == {torch.float32}


def test_sharded_saving_writes_safetensors_only(tmp_path):
    model = mm1()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert not [*tmp_path.glob("*.bin"), *tmp_path.glob("*.pt")]
    assert (tmp_path / "model.safetensors.index.json").exists()
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    inputs = batch()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("text", ["own", "llama", "qwen2"])
def test_tied_embeddings_stay_tied(text, tmp_path):
    text_config = tiny.text_configs()[text]
    text_config.tie_word_embeddings = True
    model = mm1(text_config=text_config)
    model.resize_token_embeddings(tiny.VOCABULARY + 5)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert again.lm_head.weight.shape == (tiny.VOCABULARY + 5, 24)
    assert again.config.text_config.vocab_size == tiny.VOCABULARY + 5
    inputs = batch()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_the_headless_model_loads_from_the_same_checkpoint(tmp_path):
    model = mm1()
    model.save_pretrained(tmp_path)
    for loader in (MM1Model, AutoModel):
        headless = loader.from_pretrained(tmp_path)
        assert type(headless) is MM1Model
        inputs = batch()
        expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
        found = headless(**inputs, output_hidden_states=True)
        assert torch.equal(found.hidden_states[-1], expected)


# from_parts


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    found_state, expected_state = found.state_dict(), expected.state_dict()
    assert found_state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        assert torch.equal(found_state[name], value.to(found_state[name].dtype)), name


def llama(**changes) -> LlamaForCausalLM:
    config = tiny.text_configs()["llama"]
    for name, value in changes.items():
        setattr(config, name, value)
    return tiny.randomised(LlamaForCausalLM(config))


def clip_tower() -> CLIPVisionModel:
    return tiny.randomised(CLIPVisionModel(tiny.vision_configs()["clip"]))


CONNECTOR = tiny.connector_config()


@pytest.mark.parametrize("form", ["models", "paths"])
def test_foreign_parts_bring_their_weights(form, tmp_path):
    parts = {
        "vision": clip_tower(),
        "text": llama(),
        "connector": tiny.randomised(MM1Connector(tiny.lone_connector_config())),
    }
    given = dict(parts)
    if form == "paths":
        for name, part in parts.items():
            part.save_pretrained(tmp_path / name)
            given[name] = tmp_path / name
    model = MM1ForConditionalGeneration.from_parts(**given, image_token_id=tiny.IMAGE)
    assert_same_weights(model.model.vision_tower, parts["vision"])
    assert_same_weights(model.model.connector, parts["connector"])
    assert_same_weights(model.model.language_model, parts["text"].model)
    assert_same_weights(model.lm_head, parts["text"].lm_head)
    ids = torch.tensor([[1, 5, 6, 7]])
    assert torch.equal(model.eval()(ids).logits, parts["text"](ids).logits)


@pytest.mark.parametrize("form", ["models", "paths", "strings"])
def test_own_parts_bring_their_weights(form, tmp_path):
    vision = tiny.randomised(MM1VisionModel(tiny.vision_config()))
    text = tiny.randomised(MM1ForCausalLM(tiny.text_config()))
    given = {"vision": vision, "text": text}
    if form != "models":
        for name, part in list(given.items()):
            part.save_pretrained(tmp_path / name)
            given[name] = tmp_path / name if form == "paths" else str(tmp_path / name)
    model = MM1ForConditionalGeneration.from_parts(**given, connector=CONNECTOR)
    assert_same_weights(model.model.vision_tower, vision)
    ids = torch.tensor([[1, 5, 6, 7]])
    assert torch.equal(model.eval()(ids).logits, text(ids).logits)


def test_the_decoders_generation_settings_come_along():
    text = llama()
    text.generation_config.eos_token_id = [2, 7]
    model = MM1ForConditionalGeneration.from_parts(
        vision=tiny.vision_config(), text=text, connector=CONNECTOR
    )
    assert model.generation_config.eos_token_id == [2, 7]
    assert model.generation_config is not text.generation_config


def test_configurations_give_a_new_model():
    model = MM1ForConditionalGeneration.from_parts(
        vision=tiny.vision_config(), text=tiny.text_configs()["llama"], connector=CONNECTOR
    )
    assert model.config.text_config.model_type == "llama"
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_default_connector_is_the_papers():
    with torch.device("meta"):
        model = MM1ForConditionalGeneration.from_parts(
            vision=tiny.vision_config(), text=tiny.text_config()
        )
    assert model.config.connector_config.connector_type == "c_abstractor"
    assert model.config.num_image_tokens == 144


def test_of_a_whole_clip_the_tower_is_taken(tmp_path):
    config = CLIPConfig(
        vision_config=tiny.vision_configs()["clip"].to_dict(),
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 9,
        },
        projection_dim=8,
    )
    clip = tiny.randomised(CLIPModel(config))
    clip.save_pretrained(tmp_path)
    for source in (clip, tmp_path):
        model = MM1ForConditionalGeneration.from_parts(
            vision=source, text=tiny.text_config(), connector=CONNECTOR
        )
        assert model.model.vision_tower.config.model_type == "clip_vision_model"
        assert torch.equal(
            model.eval().model.vision_tower(pixels := tiny.tiles(1)).last_hidden_state,
            clip.vision_model(pixels).last_hidden_state,
        )


def test_parts_of_a_whole_mm1_can_be_taken_again(tmp_path):
    whole = mm1()
    whole.save_pretrained(tmp_path)
    model = MM1ForConditionalGeneration.from_parts(
        vision=whole.model.vision_tower,
        text=llama(),
        connector=whole.model.connector,
        image_token_id=tiny.IMAGE,
    )
    assert_same_weights(model.model.connector, whole.model.connector)
    assert_same_weights(model.model.vision_tower, whole.model.vision_tower)


@pytest.mark.parametrize("given", [None, torch.bfloat16])
def test_the_composed_dtype_is_the_decoders_or_the_one_asked_for(given):
    text = llama().to(torch.float16)
    model = MM1ForConditionalGeneration.from_parts(
        vision=clip_tower(), text=text, connector=CONNECTOR, dtype=given
    )
    assert {p.dtype for p in model.parameters()} == {given or torch.float16}
    assert text.dtype == torch.float16


@pytest.mark.parametrize("tied", [True, False])
def test_a_tokenizer_sets_the_placeholder_and_grows_the_vocabulary(make_tokenizer, tied):
    tokenizer = make_tokenizer()
    text = llama(tie_word_embeddings=tied, vocab_size=len(tokenizer))
    text = tiny.randomised(LlamaForCausalLM(text.config))
    model = MM1ForConditionalGeneration.from_parts(
        vision=clip_tower(), text=text, connector=CONNECTOR, tokenizer=tokenizer
    )
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.text_config.vocab_size == len(tokenizer) == text.config.vocab_size + 1
    assert model.lm_head.weight.shape[0] == len(tokenizer)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    old = text.config.vocab_size
    assert torch.equal(model.get_input_embeddings().weight[:old], text.model.embed_tokens.weight)


def test_a_larger_vocabulary_is_not_cut(make_tokenizer):
    tokenizer = make_tokenizer()
    text = LlamaForCausalLM(llama(vocab_size=len(tokenizer) + 50).config)
    model = MM1ForConditionalGeneration.from_parts(
        vision=clip_tower(), text=text, connector=CONNECTOR, tokenizer=tokenizer
    )
    assert model.config.text_config.vocab_size == text.config.vocab_size
    assert model.lm_head.weight.shape[0] == text.config.vocab_size


@pytest.mark.parametrize("decoder_class", [LlamaModel, MM1TextModel])
def test_a_decoder_without_head_gets_a_new_one(decoder_class):
    kind = "own" if decoder_class is MM1TextModel else "llama"
    decoder = tiny.randomised(decoder_class(tiny.text_configs()[kind]))
    model = MM1ForConditionalGeneration.from_parts(
        vision=tiny.vision_config(), text=decoder, connector=CONNECTOR
    )
    assert_same_weights(model.model.language_model, decoder)
    assert 0.01 < model.lm_head.weight.std() < 0.03


def test_a_head_with_a_bias_is_an_error_that_says_what_to_do():
    text = llama()
    text.lm_head = nn.Linear(24, tiny.VOCABULARY, bias=True)
    with pytest.raises(ValueError, match=r"head of LlamaForCausalLM has a bias.*AutoModel"):
        MM1ForConditionalGeneration.from_parts(
            vision=tiny.vision_config(), text=text, connector=CONNECTOR
        )


def test_composing_changes_no_part():
    text, vision = llama(), clip_tower()
    before = {name: value.clone() for name, value in text.state_dict().items()}
    configs = text.config.to_dict(), vision.config.to_dict(), CONNECTOR.to_dict()
    model = MM1ForConditionalGeneration.from_parts(vision=vision, text=text, connector=CONNECTOR)
    tiny.randomised(model)
    assert all(torch.equal(value, before[name]) for name, value in text.state_dict().items())
    assert (text.config.to_dict(), vision.config.to_dict(), CONNECTOR.to_dict()) == configs


def without(folder, *, prefix: str) -> None:
    """Take the weights that start with `prefix` out of a checkpoint."""
    file = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith(prefix)}
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("part", ["vision", "text", "connector"])
def test_a_part_that_lacks_weights_is_an_error_not_noise(part, tmp_path):
    whole = {
        "vision": (MM1VisionModel(tiny.vision_config()), "layers.1"),
        "text": (MM1ForCausalLM(tiny.text_config()), "model.layers.1"),
        "connector": (MM1Connector(tiny.lone_connector_config("mlp")), "projector"),
    }
    for name, (model, _) in whole.items():
        model.save_pretrained(tmp_path / name)
    sources = {name: tmp_path / name for name in whole}
    MM1ForConditionalGeneration.from_parts(**sources)
    without(tmp_path / part, prefix=whole[part][1])
    with pytest.raises(ValueError, match=r"lacks .* weights of MM1"):
        MM1ForConditionalGeneration.from_parts(**sources)


def test_a_model_that_merely_has_a_tower_is_no_tower():
    with pytest.raises(
        ValueError, match=r"Pass the tower itself, such as model\.model\.vision_tower"
    ):
        MM1ForConditionalGeneration.from_parts(vision=mm1(), text=tiny.text_config())


def test_a_composed_model_names_no_folder_of_this_machine(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer()
    CLIPVisionModel(tiny.vision_configs()["clip"]).save_pretrained(tmp_path / "clip")
    config = tiny.text_configs()["llama"]
    config.vocab_size = len(tokenizer)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    decoder = LlamaForCausalLM.from_pretrained(tmp_path / "llama")
    model = MM1ForConditionalGeneration.from_parts(
        vision=tmp_path / "clip",
        text=decoder,
        connector=tiny.connector_config(),
        tokenizer=tokenizer,
    )
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    assert decoder.config.name_or_path == str(tmp_path / "llama"), "the part itself is left alone"
