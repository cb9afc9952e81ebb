import pytest
import torch

from mm1_hf import MM1VisionModel
from mm1_hf.model.base_mm1 import resample_positions

from . import tiny


def model(**changes) -> MM1VisionModel:
    return tiny.randomised(MM1VisionModel(tiny.vision_config(**changes)))


@pytest.mark.parametrize("use_class_token", [True, False])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (42, 42), (28, 56), (30, 34)])
def test_a_tile_of_any_size_becomes_one_token_per_patch(height, width, use_class_token):
    output = model(use_class_token=use_class_token)(torch.randn(2, 3, height, width))
    patches = (height // 7) * (width // 7)
    assert output.last_hidden_state.shape == (2, patches + use_class_token, 32)
    assert output.pooler_output.shape == (2, 32)


def test_pooled_is_the_class_token_or_the_mean_of_the_patches():
    pixels = tiny.tiles(2)
    output = model()(pixels)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 0])
    output = model(use_class_token=False)(pixels)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(1))


@pytest.mark.parametrize("feature_layer", [0, 1, 2, -1, -2, -3])
def test_the_feature_layer_is_a_hidden_state_of_the_whole_tower(feature_layer):
    pixels = tiny.tiles(2)
    whole = model(use_final_norm=False)
    expected = whole(pixels, output_hidden_states=True).hidden_states[feature_layer]
    short = MM1VisionModel(tiny.vision_config(use_final_norm=False, feature_layer=feature_layer))
    short.load_state_dict(whole.state_dict(), strict=False)
    assert len(short.layers) == feature_layer % 3
    torch.testing.assert_close(short(pixels).last_hidden_state, expected)


def test_hidden_states_come_before_the_final_norm():
    tower = model()
    output = tower(tiny.tiles(1), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    torch.testing.assert_close(
        tower.final_layernorm(output.hidden_states[-1]), output.last_hidden_state
    )


def test_resampling_to_the_same_grid_changes_no_bit():
    table = torch.randn(16, 5)
    assert resample_positions(table, source_grid=(4, 4), target_grid=(4, 4)) is table


def test_positions_are_resampled_in_fp32_whatever_their_dtype():
    table = torch.randn(16, 5)
    expected = resample_positions(table.half().float(), source_grid=(4, 4), target_grid=(6, 5))
    found = resample_positions(table.half(), source_grid=(4, 4), target_grid=(6, 5))
    assert found.dtype == torch.half
    assert torch.equal(found, expected.half())


def test_a_constant_position_table_stays_constant_at_every_resolution():
    table = torch.full((16, 5), 0.7)
    found = resample_positions(table, source_grid=(4, 4), target_grid=(7, 3))
    torch.testing.assert_close(found, torch.full((21, 5), 0.7))


def test_rows_and_columns_are_not_exchanged():
    rows = torch.arange(4.0).repeat_interleave(4).unsqueeze(1)
    wide = resample_positions(rows, source_grid=(4, 4), target_grid=(4, 8)).reshape(4, 8)
    torch.testing.assert_close(wide, torch.arange(4.0).unsqueeze(1).expand(4, 8))


def test_the_class_tokens_position_is_never_resampled():
    tower = model()
    assert torch.equal(tower._positions((6, 6))[0], tower.position_embedding.weight[0])


def test_activation_checkpointing_changes_no_gradient():
    tower = model().train()
    pixels = tiny.tiles(2)
    tower(pixels).last_hidden_state.square().sum().backward()
    expected = [parameter.grad.clone() for parameter in tower.parameters()]
    tower.zero_grad()
    tiny.enable_activation_checkpointing(tower)
    tower(pixels).last_hidden_state.square().sum().backward()
    assert all(layer.gradient_checkpointing for layer in tower.layers)
    torch.testing.assert_close([parameter.grad for parameter in tower.parameters()], expected)


def test_eager_attention_returns_weights_that_sum_to_one():
    tower = model()
    tower.set_attn_implementation("eager")
    attentions = tower(tiny.tiles(2), output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, 17, 17)] * 2
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 4, 17))


def test_eager_and_sdpa_agree():
    tower, pixels = model(), tiny.tiles(2)
    outputs = []
    for implementation in ("eager", "sdpa"):
        tower.set_attn_implementation(implementation)
        outputs.append(tower(pixels).last_hidden_state)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


def test_tuple_output_on_request():
    output = model()(tiny.tiles(1), return_dict=False)
    assert isinstance(output, tuple) and output[0].shape == (1, 17, 32)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 1, 3, 28, 28), (1, 4, 28, 28), (1, 3, 6, 28)])
def test_what_is_no_batch_of_tiles_is_refused(shape):
    with pytest.raises(ValueError, match=r"Tiles of|pixel_values must be \(tiles, 3, height"):
        model()(torch.zeros(shape))
