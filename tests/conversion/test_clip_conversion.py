import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, SiglipVisionModel

from mm1_hf import MM1VisionModel
from mm1_hf.conversion import convert_clip_vision, export_clip_vision

from ..model import tiny


def clip() -> CLIPVisionModel:
    return tiny.randomised(CLIPVisionModel(tiny.vision_configs()["clip"]))


def assert_bit_equal(found, expected) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_there_and_back_changes_no_bit():
    theirs = clip()
    again = export_clip_vision(convert_clip_vision(theirs).model).model
    assert_bit_equal(again, theirs)
    pixels = tiny.tiles(2)
    assert torch.equal(again.eval()(pixels).last_hidden_state, theirs(pixels).last_hidden_state)


def test_back_and_there_changes_no_bit():
    config = tiny.vision_config(hidden_act="gelu", dtype="float32")
    ours = tiny.randomised(MM1VisionModel(config))
    again = convert_clip_vision(export_clip_vision(ours).model).model
    assert_bit_equal(again, ours)
    assert again.config.to_dict() == ours.config.to_dict()


def test_the_report_lists_every_tensor():
    theirs = clip()
    report = convert_clip_vision(theirs).report
    assert set(report.renamed) | set(report.dropped) == set(theirs.state_dict())
    assert all(key.endswith("position_ids") for key in report.dropped)
    assert set(report.renamed.values()) == set(convert_clip_vision(theirs).model.state_dict())


def test_what_lies_behind_the_feature_layer_is_dropped_and_reported():
    model, report = convert_clip_vision(clip(), feature_layer=-2, use_final_norm=False)
    assert len(model.layers) == 1
    dropped = {key for key in report.dropped if "position_ids" not in key}
    assert {key.split(".")[0] for key in dropped} == {"encoder", "post_layernorm"}
    assert all(key.startswith(("encoder.layers.1.", "post_layernorm.")) for key in dropped)
    assert "behind feature_layer -2" in report.dropped["encoder.layers.1.mlp.fc1.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype):
    theirs = clip().to(dtype)
    ours = convert_clip_vision(theirs).model
    assert ours.dtype == dtype
    assert_bit_equal(export_clip_vision(ours).model, theirs)


def test_of_a_whole_clip_the_tower_is_converted():
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    vision = tiny.vision_configs()["clip"].to_dict()
    whole = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).eval()
    ours = convert_clip_vision(whole).model
    pixels = tiny.tiles(1)
    expected = whole.vision_model(pixels).pooler_output
    torch.testing.assert_close(ours(pixels).pooler_output, expected, atol=1e-5, rtol=0)


def test_a_converted_tower_shares_no_memory_with_its_source():
    theirs = clip()
    before = theirs.state_dict()["post_layernorm.weight"].clone()
    tiny.randomised(convert_clip_vision(theirs).model)
    assert torch.equal(theirs.state_dict()["post_layernorm.weight"], before)


def test_another_model_is_an_error_that_names_what_was_found():
    siglip = SiglipVisionModel(tiny.vision_configs()["siglip"])
    with pytest.raises(ValueError, match=r"Expected a CLIPVisionModel.*found SiglipVisionModel"):
        convert_clip_vision(siglip)


@pytest.mark.parametrize(
    "options",
    [
        {"use_class_token": False},
        {"use_pre_layernorm": False},
        {"patch_bias": True},
        {"use_final_norm": False},
        {"feature_layer": -2},
    ],
)
def test_a_tower_clip_cannot_be_is_not_exported(options):
    tower = MM1VisionModel(tiny.vision_config(**options))
    with pytest.raises(ValueError, match=next(iter(options))):
        export_clip_vision(tower)


def test_a_tile_that_is_not_square_is_not_exported():
    """CLIP's own code takes one side only."""
    tower = MM1VisionModel(tiny.vision_config(image_size=[28, 56]))
    with pytest.raises(ValueError, match="image_size"):
        export_clip_vision(tower)
