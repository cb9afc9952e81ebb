"""`MM1VisionModel` is SigLIP's tower, hidden state by hidden state."""

import pytest
import torch
from transformers import Siglip2VisionConfig, Siglip2VisionModel, SiglipVisionModel

from mm1_hf.conversion import ConversionOptions, convert_model, convert_model_back

from ..model import tiny


def siglip() -> SiglipVisionModel:
    return tiny.randomised(SiglipVisionModel(tiny.vision_configs()["siglip"]), gain=1.0)


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_hidden_state_is_siglips():
    reference = siglip()
    tower = convert_model(reference).model.eval()
    pixels = tiny.tiles(2)
    expected = reference(pixels, output_hidden_states=True)
    found = tower(pixels, output_hidden_states=True)
    assert_equal(found.last_hidden_state, expected.last_hidden_state)
    assert len(found.hidden_states) == len(expected.hidden_states) == 3
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_a_feature_layer_is_siglips_hidden_state(feature_layer):
    reference = siglip()
    options = ConversionOptions(feature_layer=feature_layer, use_final_norm=False)
    tower = convert_model(reference, options=options).model.eval()
    pixels = tiny.tiles(2)
    expected = reference(pixels, output_hidden_states=True).hidden_states[feature_layer]
    assert_equal(tower(pixels).last_hidden_state, expected)


def test_another_resolution_is_siglips_interpolation():
    reference = siglip()
    pixels = tiny.tiles(2, side=42)
    expected = reference(pixels, interpolate_pos_encoding=True).last_hidden_state
    assert_equal(convert_model(reference).model.eval()(pixels).last_hidden_state, expected)


def test_without_its_head_it_comes_back_in_memory():
    reference = siglip()
    again = convert_model_back(convert_model(reference).model).model.eval()
    assert not again.config.vision_use_head
    pixels = tiny.tiles(2)
    expected = reference(pixels).last_hidden_state
    assert torch.equal(again(pixels).last_hidden_state, expected)


def test_the_naflex_variant_is_refused():
    sizes = {key: value for key, value in tiny.VISION_SIZES.items() if key != "image_size"}
    with pytest.raises(ValueError, match=r"NaFlex variant.*fixed resolution"):
        convert_model(Siglip2VisionModel(Siglip2VisionConfig(**sizes)))
