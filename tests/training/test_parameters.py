"""Every trainable parameter is in exactly one group, with the right rate and decay."""

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.training.freezing import freeze
from mm1_hf.training.parameters import (
    PARTS,
    count_parameters,
    named_parts,
    non_embedding_parameters,
    parameter_groups,
)

from ..model import tiny

LORA = {"r": 2, "target_modules": r".*language_model.*(q_proj|v_proj)"}


def mm1(**changes) -> MM1ForConditionalGeneration:
    return MM1ForConditionalGeneration(tiny.config(**changes))


def groups_of(model: nn.Module, **settings) -> dict[str, dict]:
    groups = parameter_groups(model, **{"learning_rate": 1.0, "weight_decay": 0.1, **settings})
    return {group["name"]: group for group in groups}


def assert_partition(model: nn.Module) -> None:
    grouped = [id(p) for group in groups_of(model).values() for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def place(model: nn.Module, ending: str) -> str:
    """Name of the group that holds the parameter of a name."""
    (parameter,) = [p for name, p in model.named_parameters() if name.endswith(ending)]
    (found,) = [
        name
        for name, group in groups_of(model).items()
        if any(other is parameter for other in group["params"])
    ]
    return found


MODELS = {
    **{f"vision_{name}": {"vision_config": c} for name, c in tiny.vision_configs().items()},
    **{f"text_{name}": {"text_config": c} for name, c in tiny.text_configs().items()},
    **{name: {"connector_config": tiny.connector_config(name)} for name in tiny.CONNECTOR_TYPES},
    "tied": {"text_config": tiny.text_config(tie_word_embeddings=True)},
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_every_trainable_parameter_is_in_exactly_one_group(changes):
    model = mm1(**changes)
    assert_partition(model)
    assert {entry.part for entry in named_parts(model)} == set(PARTS) - {"other"}


@pytest.mark.parametrize("part", ["vision_tower", "connector", "decoder", "embeddings"])
def test_frozen_parameters_are_in_no_group(part):
    model = mm1()
    freeze(model, part)
    assert_partition(model)
    assert not [name for name in groups_of(model) if name.startswith(part)]


def test_tied_embeddings_are_counted_once():
    model = mm1(text_config=tiny.text_config(tie_word_embeddings=True))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    (table,) = groups_of(model)["embeddings.decay"]["params"]
    assert table is model.lm_head.weight
    assert count_parameters(model)["embeddings"].total == table.numel()


@pytest.mark.parametrize("ending", ["norm.weight", "layernorm1.bias", "q_norm.weight"])
def test_norms_do_not_decay(ending):
    model = mm1(text_config=tiny.text_config(qk_norm=True))
    names = [name for name, _ in model.named_parameters() if name.endswith(ending)]
    assert names
    for name in names:
        assert place(model, name).endswith(".no_decay"), name


@pytest.mark.parametrize(
    "ending, group",
    [
        ("vision_tower.position_embedding.weight", "vision_tower.no_decay"),
        ("vision_tower.class_embedding", "vision_tower.no_decay"),
        ("vision_tower.patch_embedding.weight", "vision_tower.decay"),
        ("vision_tower.layers.0.self_attn.q_proj.bias", "vision_tower.no_decay"),
        ("projector.position_embedding", "connector.no_decay"),
        ("language_model.embed_tokens.weight", "embeddings.decay"),
        ("language_model.layers.1.mlp.down_proj.weight", "decoder.decay"),
        ("lm_head.weight", "embeddings.decay"),
    ],
)
def test_tables_and_biases_do_not_decay_and_matrices_do(ending, group):
    assert place(mm1(), ending) == group


def test_learned_queries_do_not_decay():
    model = mm1(connector_config=tiny.connector_config("attention_pool"))
    assert place(model, "projector.queries") == "connector.no_decay"


def test_foreign_position_tables_and_class_tokens_do_not_decay():
    model = mm1(vision_config=tiny.vision_configs()["clip"])
    assert place(model, "embeddings.position_embedding.weight") == "vision_tower.no_decay"
    assert place(model, "embeddings.class_embedding") == "vision_tower.no_decay"


def test_a_decoder_with_learned_positions_keeps_them_apart_from_its_tokens():
    sizes = {"vocab_size": 99, "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 32}
    text = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    model = mm1(text_config=text)
    assert place(model, "language_model.wpe.weight") == "decoder.no_decay"
    assert place(model, "language_model.wte.weight") == "embeddings.decay"


def test_fused_experts_and_their_router_decay():
    model = mm1(text_config=tiny.text_configs()["mixtral"])
    names = [
        name for name, _ in model.named_parameters() if ".mlp." in name and "tower" not in name
    ]
    names = [name for name in names if "language_model" in name]
    assert any("experts" in name for name in names) and any("gate" in name for name in names)
    assert {place(model, name) for name in names} == {"decoder.decay"}


def test_one_policy_lets_everything_decay():
    groups = groups_of(mm1(), decay="all")
    assert all(group["weight_decay"] == 0.1 for group in groups.values())
    with pytest.raises(ValueError, match="'matrices', 'all'"):
        groups_of(mm1(), decay="norms")


def test_every_part_has_its_own_rate():
    groups = groups_of(mm1(), learning_rate=2.0, rate_scales={"vision_tower": 0.25})
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates["vision_tower.decay"] == rates["vision_tower.no_decay"] == 0.5
    assert {rate for name, rate in rates.items() if "vision" not in name} == {2.0}


def test_the_first_group_has_the_rate_of_the_model():
    """`Trainer` logs the rate of the first group."""
    first = next(iter(groups_of(mm1(), rate_scales={"vision_tower": 0.1}).values()))
    assert first["lr"] == 1.0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_stand_in_the_part_they_adapt():
    model = peft.get_peft_model(
        mm1(), peft.LoraConfig(**LORA, modules_to_save=["connector", "embed_tokens"])
    )
    assert_partition(model)
    assert place(model, "layers.0.self_attn.q_proj.lora_A.default.weight") == "decoder.decay"
    assert place(model, "embed_tokens.modules_to_save.default.weight") == "embeddings.decay"
    assert set(groups_of(model)) == {
        "decoder.decay",
        "embeddings.decay",
        "connector.decay",
        "connector.no_decay",
    }


def test_a_module_of_your_own_is_trained_too():
    model = mm1()
    model.extra = nn.Linear(2, 2)
    assert_partition(model)
    assert place(model, "extra.weight") == "other.decay"


def test_optimizers_take_the_groups():
    model = mm1()
    optimizer = torch.optim.AdamW(list(groups_of(model, learning_rate=1e-3).values()))
    assert [group["name"] for group in optimizer.param_groups] == list(groups_of(model))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rate_scales": {"vision": 0.1}}, "'vision'.*'vision_tower'"),
        ({"rate_scales": {"vision_tower": 0.0}}, "freeze"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        groups_of(mm1(), **settings)


def test_a_model_of_which_nothing_trains_is_an_error():
    with pytest.raises(ValueError, match="all are frozen"):
        groups_of(mm1().requires_grad_(False))


@pytest.mark.parametrize("tied", [False, True])
def test_the_law_counts_the_decoder_without_its_table_and_head(tied):
    model = mm1(text_config=tiny.text_config(tie_word_embeddings=tied))
    decoder = model.model.language_model
    table = decoder.get_input_embeddings().weight.numel()
    assert non_embedding_parameters(model) == decoder.num_parameters() - table
    with pytest.raises(ValueError, match="Linear has no language_model"):
        non_embedding_parameters(nn.Linear(2, 2))
