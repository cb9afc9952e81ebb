"""Presets have the totals of their names; counted on the meta device, without memory."""

import pytest
import torch

from mm1_hf import MM1Config, MM1ForConditionalGeneration, presets
from mm1_hf.planning.parameters import ParameterCount, count_parameters
from mm1_hf.presets import PRESETS

# Billions of parameters of the decoder, and how far off it may be.
TOTALS = {
    "mm1_3b": (3, 0.05),
    "mm1_7b": (7, 0.05),
    "mm1_30b": (30, 0.05),
    "mm1_3b_moe": (64, 0.02),
    "mm1_7b_moe": (47, 0.02),
    "mm1_1b2_ablation": (1.2, 0.05),
    "mm1_5_1b": (1, 0.05),
    "mm1_5_3b": (3, 0.05),
    "mm1_5_7b": (7, 0.05),
    "mm1_5_30b": (30, 0.05),
    "mm1_5_3b_moe": (64, 0.02),
}
# Dense parents, whose parameters one token of the sparse model passes twice in sparse layers.
PARENTS = {"mm1_3b_moe": "mm1_3b", "mm1_7b_moe": "mm1_7b", "mm1_5_1b_moe": "mm1_5_1b"}


def decoder_total(count: ParameterCount) -> float:
    return (count.language_model.total + count.lm_head.total) / 1e9


@pytest.mark.parametrize("name", TOTALS)
def test_the_decoder_has_the_total_of_its_name(name):
    total, tolerance = TOTALS[name]
    found = decoder_total(count_parameters(PRESETS[name]()))
    assert found == pytest.approx(total, rel=tolerance)


@pytest.mark.parametrize("name", PARENTS)
def test_a_sparse_model_is_its_parent_with_more_feed_forward_blocks(name):
    sparse, dense = PRESETS[name](), PRESETS[PARENTS[name]]()
    text = sparse.text_config
    per_block = 3 * text.hidden_size * text.intermediate_size
    routers = text.num_experts * text.hidden_size
    layers = text.mlp_layer_types.count("sparse")
    found, parent = count_parameters(sparse), count_parameters(dense)
    extra = layers * ((text.num_experts - 1) * per_block + routers)
    assert found.language_model.total - parent.language_model.total == extra
    # Of the experts, one more than the dense block is active.
    active = layers * (per_block + routers)
    assert found.language_model.active - parent.language_model.active == active


@pytest.mark.parametrize(
    ("name", "experts", "every"),
    [
        ("mm1_3b_moe", 64, 2),
        ("mm1_7b_moe", 32, 4),
        ("mm1_5_1b_moe", 64, 2),
        ("mm1_5_3b_moe", 64, 2),
    ],
)
def test_experts_are_the_published_ones(name, experts, every):
    text = PRESETS[name]().text_config
    assert text.num_experts == experts
    sparse = [n for n, kind in enumerate(text.mlp_layer_types, 1) if kind == "sparse"]
    assert sparse == list(range(every, text.num_hidden_layers + 1, every))
    assert (text.num_experts_per_tok, text.router_aux_loss_coef) == (2, 0.01)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_saves_loads_and_takes_changes(name, tmp_path):
    config = PRESETS[name](vocab_size=50_000, pad_token_id=7)
    assert (config.text_config.vocab_size, config.text_config.pad_token_id) == (50_000, 7)
    config.save_pretrained(tmp_path)
    assert MM1Config.from_pretrained(tmp_path).to_dict() == config.to_dict()
    final = 56 if name == "tiny" else 336 if name == "mm1_1b2_ablation" else 378
    assert config.vision_config.image_size == final


def test_every_name_of_a_preset_is_public():
    assert set(presets.__all__) == {"PRESETS", *PRESETS}
    assert all(getattr(presets, name) is preset for name, preset in PRESETS.items())


@pytest.mark.parametrize("experts", [{}, {"num_experts": 4, "moe_every_n_layers": 2}])
def test_the_tiny_preset_runs(experts):
    config = presets.tiny(**experts)
    config.image_token_id = 1023
    model = MM1ForConditionalGeneration(config).train()
    ids = torch.tensor([[5, 1023, 1023, 1023, 1023, 6, 7]])
    output = model(
        ids, pixel_values=torch.randn(1, 3, 56, 56), labels=torch.where(ids > 99, -100, ids)
    )
    output.loss.backward()
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
