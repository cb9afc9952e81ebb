"""AIMv2's tower is used as it is: taken out, checked, and composed."""

import torch
from transformers import Aimv2Config, Aimv2Model, Aimv2VisionModel

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.conversion import convert

from ..model import tiny


def whole_aimv2() -> Aimv2Model:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
        "eos_token_id": 8,
    }
    vision = tiny.vision_configs()["aimv2"].to_dict()
    return tiny.randomised(
        Aimv2Model(Aimv2Config(vision_config=vision, text_config=text, projection_dim=8)), gain=1.0
    )


def test_the_tower_of_a_whole_aimv2_is_composed_as_it_is(tmp_path):
    whole = whole_aimv2()
    whole.save_pretrained(tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "tower")
    assert "the tower stays transformers' Aimv2VisionModel" in str(report)
    tower = Aimv2VisionModel.from_pretrained(tmp_path / "tower")
    model = MM1ForConditionalGeneration.from_parts(
        vision=tmp_path / "tower", connector=tiny.connector_config(), text=tiny.text_config()
    ).eval()
    pixels = tiny.tiles(2)
    expected = whole.vision_model(pixels).last_hidden_state
    for found in (tower, model.model.vision_tower):
        assert torch.equal(found(pixels).last_hidden_state, expected)
