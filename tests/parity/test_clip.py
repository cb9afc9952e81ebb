"""`MM1VisionModel` is transformers' CLIP tower, hidden state by hidden state."""

import pytest
import torch
from transformers import CLIPVisionModel

from mm1_hf import MM1VisionModel
from mm1_hf.conversion import ConversionOptions, convert_model

from ..model import tiny


def clip(hidden_act: str = "quick_gelu") -> CLIPVisionModel:
    config = tiny.vision_configs()["clip"]
    config.hidden_act = hidden_act
    return tiny.randomised(CLIPVisionModel(config), gain=1.0)


def ours(tower: CLIPVisionModel, **options) -> MM1VisionModel:
    return convert_model(tower, options=ConversionOptions(**options)).model.eval()


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_every_hidden_state_is_clips(hidden_act, implementation):
    reference = clip(hidden_act)
    tower = ours(reference)
    tower.set_attn_implementation(implementation)
    pixels = tiny.tiles(3)
    expected = reference(pixels, output_hidden_states=True)
    found = tower(pixels, output_hidden_states=True)
    assert len(found.hidden_states) == len(expected.hidden_states) == 3
    for ours_, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert_equal(ours_, theirs)
    # CLIP normalises the class token only.
    assert_equal(found.pooler_output, expected.pooler_output)
    norm = reference.post_layernorm
    assert_equal(found.last_hidden_state, norm(expected.last_hidden_state))


def test_without_the_final_norm_the_last_hidden_state_is_clips():
    reference = clip()
    pixels = tiny.tiles(2)
    found = ours(reference, use_final_norm=False)(pixels).last_hidden_state
    assert_equal(found, reference(pixels).last_hidden_state)


@pytest.mark.parametrize("feature_layer", [-2, -3, 1])
def test_a_feature_layer_is_clips_hidden_state(feature_layer):
    reference = clip()
    pixels = tiny.tiles(2)
    tower = ours(reference, feature_layer=feature_layer, use_final_norm=False)
    expected = reference(pixels, output_hidden_states=True).hidden_states[feature_layer]
    assert_equal(tower(pixels).last_hidden_state, expected)


@pytest.mark.parametrize("side", [21, 42, 56])
def test_another_resolution_is_clips_interpolation(side):
    reference = clip()
    pixels = tiny.tiles(2, side=side)
    expected = reference(pixels, interpolate_pos_encoding=True)
    found = ours(reference, use_final_norm=False)(pixels)
    assert_equal(found.last_hidden_state, expected.last_hidden_state)


def test_eager_attention_weights_are_clips():
    reference = clip()
    tower = ours(reference)
    for model in (reference, tower):
        model.set_attn_implementation("eager")
    pixels = tiny.tiles(2)
    expected = reference(pixels, output_attentions=True).attentions
    for found, theirs in zip(
        tower(pixels, output_attentions=True).attentions, expected, strict=True
    ):
        assert_equal(found, theirs)
