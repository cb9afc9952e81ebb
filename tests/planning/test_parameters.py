"""Counts equal what the built model has."""

import copy

import pytest
from transformers import MixtralConfig

from mm1_hf import MM1Config, MM1ForConditionalGeneration
from mm1_hf.planning import count_parameters
from mm1_hf.planning.parameters import PARTS, active_share

from .small import TEXT, config, configs


@pytest.mark.parametrize("name", configs())
def test_the_count_is_that_of_the_built_model(name):
    model_config = configs()[name]
    model = MM1ForConditionalGeneration(copy.deepcopy(model_config))
    count = count_parameters(model_config)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    assert count.connector.total == model.model.connector.num_parameters()
    assert count.embedding == model.get_input_embeddings().weight.numel()


def test_a_tied_head_is_counted_once():
    counts = {name: count_parameters(configs()[name]) for name in ("c_abstractor", "tied")}
    assert counts["tied"].lm_head.total == 0
    assert counts["c_abstractor"].total - counts["tied"].total == 500 * 96


def test_of_experts_the_chosen_ones_are_active():
    count = count_parameters(configs()["mixtral"])
    experts = 3 * 4 * 3 * 96 * 200  # layers, experts, matrices of each, their size
    assert count.total - count.active == experts // 2
    assert count.language_model.active < count.language_model.total
    assert all(
        getattr(count, part).active == getattr(count, part).total
        for part in PARTS
        if part != "language_model"
    )


def test_shared_experts_count_whole():
    text = MixtralConfig(**TEXT, num_local_experts=8, num_experts_per_tok=2)
    assert active_share("layers.0.mlp.experts.gate_up_proj", text) == 0.25
    assert active_share("layers.0.mlp.experts.3.up_proj.weight", text) == 0.25
    assert active_share("layers.0.mlp.shared_experts.up_proj.weight", text) == 1


def test_experts_without_a_number_of_choices_are_an_error():
    with pytest.raises(ValueError, match="num_experts_per_tok"):
        active_share("layers.0.mlp.experts.gate_up_proj", config().text_config)


def test_the_paper_s_size_is_counted_without_its_memory():
    count = count_parameters(MM1Config())
    assert count.connector.total == 31_056_704
    assert count.non_embedding == count.language_model.total - 49_152 * 3072
    assert count.to_dict()["total"] == count.total


def test_the_configuration_is_left_as_it_was():
    model_config = config()
    before = model_config.to_dict()
    count_parameters(model_config)
    assert model_config.to_dict() == before
