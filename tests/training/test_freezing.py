"""Parts freeze by name, all of them and nothing else."""

import peft
import pytest

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.training.freezing import FREEZABLE, freeze, unfreeze
from mm1_hf.training.parameters import named_parts

from ..model import tiny


def mm1(**changes) -> MM1ForConditionalGeneration:
    return MM1ForConditionalGeneration(tiny.config(**changes))


def trainable(model) -> dict[str, set[bool]]:
    found: dict[str, set[bool]] = {}
    for entry in named_parts(model):
        found.setdefault(entry.part, set()).add(entry.parameter.requires_grad)
    return found


@pytest.mark.parametrize("part", FREEZABLE)
def test_a_part_freezes_whole_and_alone_and_comes_back(part):
    model = mm1()
    freeze(model, part)
    assert trainable(model) == {name: {name != part} for name in FREEZABLE}
    unfreeze(model, part)
    assert trainable(model) == {name: {True} for name in FREEZABLE}


def test_freezing_adds_to_what_is_frozen():
    model = mm1()
    freeze(model, "vision_tower")
    freeze(model, "decoder", "embeddings")
    assert trainable(model)["connector"] == {True}
    assert sum({True} == kinds for kinds in trainable(model).values()) == 1


@pytest.mark.parametrize("tower", ["clip", "siglip", "aimv2"])
def test_pooling_parts_of_foreign_towers_stay_frozen(tower):
    model = mm1(vision_config=tiny.vision_configs()[tower])
    before = [p.requires_grad for p in model.parameters()]
    freeze(model, *FREEZABLE)
    unfreeze(model, *FREEZABLE)
    assert [p.requires_grad for p in model.parameters()] == before
    assert tower == "aimv2" or not all(before)


@pytest.mark.parametrize("change", [freeze, unfreeze])
def test_an_unknown_part_is_an_error_that_lists_the_parts(change):
    with pytest.raises(ValueError, match=r"'vision'.*'connector', 'vision_tower'"):
        change(mm1(), "vision")


def test_a_part_that_the_model_lacks_is_an_error():
    with pytest.raises(ValueError, match="MM1TextModel has no connector"):
        freeze(mm1().model.language_model, "connector")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_freeze_with_their_part_and_their_base_never_unfreezes():
    settings = {"target_modules": r".*language_model.*q_proj", "modules_to_save": ["connector"]}
    model = peft.get_peft_model(mm1(), peft.LoraConfig(r=2, **settings))
    with pytest.raises(ValueError, match="modules_to_save"):
        unfreeze(model, "decoder")
    freeze(model, "decoder")
    assert trainable(model)["decoder"] == {False}
    assert trainable(model)["connector"] == {True, False}
