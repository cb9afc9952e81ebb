import copy
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    CLIPConfig,
    Dinov2Config,
    LlavaConfig,
    PreTrainedConfig,
    SiglipConfig,
)

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1TextConfig,
    MM1VisionConfig,
)

from . import tiny

OWN = (MM1Config, MM1VisionConfig, MM1ConnectorConfig, MM1TextConfig)


def through_json(config: PreTrainedConfig, *, use_diff: bool) -> PreTrainedConfig:
    return type(config).from_dict(json.loads(config.to_json_string(use_diff=use_diff)))


@pytest.mark.parametrize("use_diff", [True, False], ids=["diff", "full"])
@pytest.mark.parametrize("config_class", OWN)
def test_defaults_survive_json(config_class, use_diff):
    config = config_class()
    assert through_json(config, use_diff=use_diff).to_dict() == config.to_dict()


@pytest.mark.parametrize("use_diff", [True, False], ids=["diff", "full"])
@pytest.mark.parametrize("text", tiny.text_configs())
@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_every_composition_survives_json(vision, text, use_diff):
    config = tiny.config(
        vision_config=tiny.vision_configs()[vision], text_config=tiny.text_configs()[text]
    )
    again = through_json(config, use_diff=use_diff)
    assert again.to_dict() == config.to_dict()
    assert type(again.vision_config) is type(config.vision_config)
    assert type(again.text_config) is type(config.text_config)


def test_defaults_are_the_papers():
    config = MM1Config()
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size) == (1280, 32, 14)
    assert (vision.image_size, vision.hidden_act) == (378, "quick_gelu")
    assert config.connector_config.connector_type == "c_abstractor"
    assert config.connector_config.patch_grid == [27, 27]
    assert config.num_image_tokens == 144


@pytest.mark.parametrize(
    ("make", "misspelt", "nearest"),
    [
        (lambda: MM1Config(image_tokn_id=3), "image_tokn_id", "image_token_id"),
        (lambda: MM1VisionConfig(hiden_size=32), "hiden_size", "hidden_size"),
        (lambda: MM1ConnectorConfig(conector_type="mlp"), "conector_type", "connector_type"),
        (lambda: MM1TextConfig(rope_paramters={}), "rope_paramters", "rope_parameters"),
        (lambda: MM1Config(vision_config={"hiden_size": 32}), "hiden_size", "hidden_size"),
        (
            lambda: MM1Config(connector_config={"num_image_token": 64}),
            "num_image_token",
            "num_image_tokens",
        ),
        (lambda: MM1Config(text_config={"vocab_sise": 9}), "vocab_sise", "vocab_size"),
    ],
)
def test_a_misspelt_field_is_an_error_that_names_the_nearest(make, misspelt, nearest):
    with pytest.raises(ValueError, match=rf"'{misspelt}' \(did you mean '{nearest}'\?\)"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MM1TextConfig(hidden_size="a"), "'hidden_size' expected int"),
        (lambda: MM1TextConfig(num_attention_heads=0), "num_attention_heads must be positive"),
        (lambda: MM1TextConfig(num_attention_heads=24, num_key_value_heads=7), "a multiple of"),
        (lambda: MM1TextConfig(head_dim=7), "head_dim must be even"),
        (lambda: MM1VisionConfig(hidden_size=100, num_attention_heads=16), "a multiple of"),
        (lambda: MM1VisionConfig(image_size=[1, 2, 3]), r"\[height, width\]"),
        (lambda: MM1VisionConfig(image_size=13), "holds no patch"),
        (lambda: MM1VisionConfig(feature_layer=33), "must lie between -33 and 32"),
        (lambda: MM1ConnectorConfig(num_image_tokens=50), "Use 49 or 64"),
        (lambda: MM1ConnectorConfig(num_image_tokens=0), "must be positive"),
        (lambda: MM1ConnectorConfig(patch_grid=[3]), r"\[rows, columns\]"),
        (
            lambda: MM1ConnectorConfig(connector_type="attention_pool", hidden_size=30),
            "a multiple of",
        ),
        (
            lambda: MM1Config(connector_config={"connector_type": "mlp", "num_image_tokens": 144}),
            "must be 729",
        ),
        (lambda: MM1Config(image_token_id=49_152), "vocab_size is 49152"),
        (lambda: MM1Config(image_token_id=-1), "image_token_id is -1"),
        (lambda: MM1Config(vision_feature_layer=-2), r"MM1VisionConfig\(feature_layer=-2\)"),
        (
            lambda: MM1Config(connector_config={"vision_hidden_size": 5}),
            r"vision_hidden_size is 5, but vision_config.hidden_size is 1280",
        ),
        (lambda: MM1Config(connector_config={"patch_grid": [2, 2]}), "patch_grid is"),
    ],
)
def test_impossible_values_are_refused(make, message):
    # transformers wraps what a validator raises in the second class.
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make()


@pytest.mark.parametrize("wrong", [3, "clip", [1]])
def test_a_part_that_is_no_configuration_is_refused(wrong):
    with pytest.raises((TypeError, StrictDataclassError), match="vision_config"):
        MM1Config(vision_config=wrong)


@pytest.mark.parametrize("whole", [CLIPConfig, SiglipConfig])
def test_of_a_two_tower_configuration_the_vision_tower_is_taken(whole):
    for given in (whole(), whole().to_dict()):
        assert MM1Config(vision_config=given).vision_config.model_type == (
            whole().vision_config.model_type
        )


def test_of_a_multimodal_configuration_the_decoder_is_taken():
    assert MM1Config(text_config=LlavaConfig()).text_config.model_type == "llama"


def test_a_vision_configuration_of_any_kind_gives_the_connector_its_grid():
    vision = Dinov2Config(hidden_size=32, num_attention_heads=4, image_size=42, patch_size=14)
    connector = MM1Config(vision_config=vision).connector_config
    assert (connector.patch_grid, connector.vision_hidden_size) == ([3, 3], 32)


def test_a_tile_need_not_be_square():
    config = MM1Config(vision_config={"image_size": [28, 56]})
    assert config.connector_config.patch_grid == [2, 4]


def test_configurations_of_the_user_are_never_changed():
    parts = {
        "vision_config": tiny.vision_config(),
        "connector_config": tiny.connector_config("mlp"),
        "text_config": tiny.text_configs()["llama"],
    }
    before = {name: copy.deepcopy(part.to_dict()) for name, part in parts.items()}
    config = MM1Config(**parts)
    config.text_config.vocab_size = 7
    assert {name: part.to_dict() for name, part in parts.items()} == before

    nested = {"connector_type": "mlp"}
    MM1Config(connector_config=nested)
    assert nested == {"connector_type": "mlp"}


def test_mlp_has_one_token_per_patch():
    config = MM1Config(connector_config={"connector_type": "mlp"})
    assert config.num_image_tokens == 27 * 27


def test_the_head_is_tied_where_the_decoder_says_so():
    assert tiny.config(text_config=tiny.text_config(tie_word_embeddings=True)).tie_word_embeddings
    assert not tiny.config().tie_word_embeddings
    assert tiny.config(tie_word_embeddings=True).tie_word_embeddings


def test_parts_load_from_the_configuration_of_the_whole(tmp_path):
    tiny.config().save_pretrained(tmp_path)
    for name, config_class in zip(("vision", "connector", "text"), OWN[1:], strict=True):
        part = config_class.from_pretrained(tmp_path)
        assert part.hidden_size == getattr(tiny.config(), f"{name}_config").hidden_size


def test_auto_config_knows_every_part(tmp_path):
    for config_class in OWN:
        config_class().save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is config_class


# What other tools write into a configuration. None of it may keep a checkpoint from loading.
TRACES = {
    "use_cache": lambda c: setattr(c, "use_cache", False),
    "dtype": lambda c: setattr(c, "dtype", torch.bfloat16),
    "pad_token_id": lambda c: setattr(c, "pad_token_id", 0),
    "pad_token_id_text": lambda c: setattr(c.text_config, "pad_token_id", 3),
    "attn_implementation": lambda c: setattr(c, "_attn_implementation", "eager"),
    "output_hidden_states": lambda c: setattr(c, "output_hidden_states", True),
    "quantization_config": lambda c: setattr(
        c, "quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}
    ),
    "auto_map": lambda c: setattr(c, "auto_map", {"AutoConfig": "configuration_mm1.MM1Config"}),
    "num_labels": lambda c: setattr(c, "num_labels", 3),
    "pretraining_tp": lambda c: setattr(c, "pretraining_tp", 1),
    "foreign_tool": lambda c: setattr(c, "some_tool_version", "2026.11"),
    "foreign_tool_in_a_part": lambda c: setattr(c.vision_config, "some_tool_version", "2026.11"),
}


@pytest.mark.parametrize("use_diff", [True, False], ids=["diff", "full"])
@pytest.mark.parametrize("trace", TRACES)
def test_a_configuration_that_other_tools_touched_still_loads(trace, use_diff):
    config = tiny.config()
    TRACES[trace](config)
    assert through_json(config, use_diff=use_diff).to_dict() == config.to_dict()


def test_generation_settings_of_the_model_survive_saving(tmp_path):
    model = MM1ForConditionalGeneration(tiny.config())
    model.generation_config.pad_token_id = 0
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    assert (
        MM1ForConditionalGeneration.from_pretrained(tmp_path).generation_config.max_new_tokens == 7
    )
