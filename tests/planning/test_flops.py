"""Operations agree with `torch.utils.flop_counter`, forward and backward.

The counter is right for what it knows; two operations it does not know are told to it here: the
gradient of a depthwise convolution, which it counts as a dense one, and `addmm_`.
"""

import copy
import math

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import MistralConfig, Qwen3NextConfig

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.planning import flop_model, training_flops
from mm1_hf.planning.flops import attention_windows, count_pairs
from mm1_hf.planning.parameters import part_modules

from .small import IMAGE, TEXT, config, configs

TILES, TOKENS = 3, 96


def _grouped_convolution_backward(
    grad_shape, input_shape, weight_shape, *arguments, out_shape=None, **kwargs
) -> int:
    wanted = arguments[-1]
    positions = grad_shape[0] * math.prod(grad_shape[2:])
    return 2 * math.prod(weight_shape) * positions * (wanted[0] + wanted[1])


def _added_product(total_shape, left_shape, right_shape, *, out_shape=None, **kwargs) -> int:
    return 2 * left_shape[0] * left_shape[1] * right_shape[1]


COUNTER_LACKS = {
    torch.ops.aten.convolution_backward: _grouped_convolution_backward,
    torch.ops.aten.addmm_: _added_product,
}


def counted(model_config, *, backward: bool, frozen=(), checkpointing=False, side=56):
    """Operations that the counter sees, and how many positions had a label."""
    # The counter knows neither SDPA on CPUs nor grouped products of experts; it sees plain ones.
    model = MM1ForConditionalGeneration._from_config(
        copy.deepcopy(model_config), attn_implementation="eager", experts_implementation="eager"
    ).train()
    for part in frozen:
        part_modules(model)[part].requires_grad_(False)
    if checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()
    ids = torch.randint(3, 400, (1, TOKENS))
    ids[:, 5 : 5 + TILES * model_config.num_image_tokens] = IMAGE
    labels = ids.masked_fill(ids == IMAGE, -100)
    labels[:, -20:] = -100
    pixels = torch.randn(TILES, 3, side, side)
    counter = FlopCounterMode(display=False, custom_mapping=COUNTER_LACKS)
    # Recomputation stops when all is there again, one matrix early; the convention counts it all.
    with set_checkpoint_early_stop(False), counter:
        if backward:
            model(input_ids=ids, pixel_values=pixels, labels=labels).loss.backward()
        else:
            model(input_ids=ids, pixel_values=pixels, use_cache=False)
    return counter.get_total_flops(), int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize("name", configs())
def test_a_forward_is_within_one_percent_of_the_counter(name):
    flops, _ = counted(configs()[name], backward=False)
    ours = flop_model(configs()[name]).forward(
        num_tokens=TOKENS, num_tiles=TILES, num_supervised=TOKENS, attention="square"
    )
    assert ours.total == pytest.approx(flops, rel=0.01)


@pytest.mark.parametrize("name", configs())
def test_a_training_step_is_within_one_percent_of_the_counter(name):
    flops, supervised = counted(configs()[name], backward=True)
    ours = training_flops(
        configs()[name],
        num_tokens=TOKENS,
        num_tiles=TILES,
        num_supervised=supervised,
        attention="square",
    )
    assert ours == pytest.approx(flops, rel=0.01)


FREEZINGS = (
    ("vision_tower",),
    ("connector",),
    ("vision_tower", "connector"),
    ("vision_tower", "language_model"),
    ("language_model", "lm_head"),
)


@pytest.mark.parametrize("recompute", ["nothing", "layers"])
@pytest.mark.parametrize("frozen", [(), *FREEZINGS])
@pytest.mark.parametrize("connector_type", ["mlp", "attention_pool"])
def test_freezing_and_recomputation_cost_what_the_counter_sees(connector_type, frozen, recompute):
    model_config = configs()[connector_type]
    flops, supervised = counted(
        model_config, backward=True, frozen=frozen, checkpointing=recompute == "layers"
    )
    ours = training_flops(
        model_config,
        num_tokens=TOKENS,
        num_tiles=TILES,
        num_supervised=supervised,
        attention="square",
        frozen=frozen,
        recompute=recompute,
    )
    assert ours == pytest.approx(flops, rel=0.01)


def test_larger_tiles_cost_what_the_counter_sees():
    flops, _ = counted(config(), backward=False, side=84)
    ours = flop_model(config(), tile_size=(84, 84)).forward(
        num_tokens=TOKENS, num_tiles=TILES, num_supervised=TOKENS, attention="square"
    )
    assert ours.total == pytest.approx(flops, rel=0.01)


def test_training_is_three_forwards_and_four_with_recomputed_layers():
    costs = flop_model(config())
    batch = {"num_tokens": TOKENS, "num_tiles": TILES}
    forward = costs.forward(**batch)
    training = costs.training(**batch)
    recomputed = costs.training(**batch, recompute="layers")
    assert training.language_model == pytest.approx(3 * forward.language_model)
    assert recomputed.language_model == pytest.approx(4 * forward.language_model)
    assert recomputed.connector == training.connector
    assert recomputed.lm_head == training.lm_head
    # Nobody needs a gradient of the pixels.
    assert 2.5 < training.vision_tower / forward.vision_tower < 3


def test_short_documents_cost_less_than_a_long_one():
    costs = flop_model(config())
    whole = costs.forward(num_tokens=4096, num_tiles=0)
    packed = costs.forward(num_tokens=4096, num_tiles=0, document_lengths=[512] * 8)
    pairs = 4 * 96 * 3  # operations per pair: two products, width, layers
    saved = 4096 * 4097 // 2 - 8 * (512 * 513 // 2)
    assert whole.total - packed.total == pytest.approx(pairs * saved)


def test_a_window_bounds_the_pairs():
    for length, window in [(5, 8), (8, 8), (20, 8), (1, 1)]:
        pairs = sum(
            1 for query in range(length) for key in range(query + 1) if query - key < window
        )
        assert count_pairs(length, window=window, attention="causal") == pairs


def test_windows_are_read_layer_by_layer():
    assert attention_windows(MistralConfig(**TEXT, sliding_window=7)) == (7, 7, 7)
    assert attention_windows(config().text_config) == (None, None, None)
    assert set(attention_windows(configs()["gemma2"].text_config)) == {None, 4096}


def test_a_layer_that_is_no_attention_is_an_error():
    with pytest.raises(ValueError, match="linear_attention"):
        attention_windows(Qwen3NextConfig(num_hidden_layers=4))


def test_only_supervised_positions_reach_the_vocabulary():
    costs = flop_model(config())
    few = costs.forward(num_tokens=TOKENS, num_tiles=TILES, num_supervised=10)
    assert few.lm_head == 2 * 96 * 500 * 10
    text = costs.forward(num_tokens=TOKENS, num_tiles=TILES)
    assert text.lm_head == 2 * 96 * 500 * (TOKENS - TILES * 16)


def test_counts_that_contradict_each_other_are_errors():
    costs = flop_model(config())
    with pytest.raises(ValueError, match="160 visual tokens"):
        costs.forward(num_tokens=100, num_tiles=10)
    with pytest.raises(ValueError, match="sum up to 90"):
        costs.forward(num_tokens=100, num_tiles=0, document_lengths=[50, 40])
    with pytest.raises(ValueError, match="decoder"):
        costs.training(num_tokens=100, num_tiles=0, frozen=["decoder"])
