"""A recipe is plain data with a standing for every number, and turns into a run."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.data import Document, MemorySource, Mixture, Text
from mm1_hf.training import laws
from mm1_hf.training.data_files import NamedData
from mm1_hf.training.mixtures import build_mixture, mix
from mm1_hf.training.parameters import non_embedding_parameters, parameter_groups
from mm1_hf.training.recipe import CHANGEABLE
from mm1_hf.training.recipe_files import load_recipe, save_recipe
from mm1_hf.training.recipes import (
    MM1_SFT_THOUSANDS,
    MM15_SFT_PERCENT,
    RECIPES,
    continual,
    pretrain,
    sft,
)
from mm1_hf.training.runs import (
    adapt_processor,
    peak_learning_rate,
    plan_run,
    require_optimizer_for_sharding,
    require_processes,
)

from ..data.small_corpus import make_model, make_processor
from ..model import tiny

TRAINABLE = torch.nn.Linear(3, 3)


def arguments(recipe, folder, **settings) -> TrainingArguments:
    made = recipe.training_arguments(output_dir=str(folder), peak_rate=1e-3, **settings)
    return TrainingArguments(**made, use_cpu=True)


def source(name: str, documents: int = 3) -> MemorySource:
    texts = [
        Document(segments=(Text(f"{name} {n}"),), key=str(n), source=name, kind="text")
        for n in range(documents)
    ]
    return MemorySource(texts, name=name)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_number_of_a_recipe_has_a_standing(recipe):
    assert set(recipe.standing) == set(CHANGEABLE)
    shown = recipe.describe()
    for name in ("steps", "weights", "learning_rate", "frozen"):
        assert f"\n  {name} " in shown


def test_what_was_changed_stands_as_yours():
    recipe = pretrain(steps=10, batch_size=512)
    assert recipe.standing["steps"] == "yours"
    assert recipe.standing["batch_size"] == "published", "the same number is no change"
    assert pretrain().steps == 200_000


def test_the_published_numbers():
    recipe = pretrain()
    assert recipe.weights == {"captions": 45, "interleaved": 45, "text": 10}
    assert (recipe.warmup_steps, recipe.num_sequences) == (2000, 200_000 * 512)
    assert sum(MM1_SFT_THOUSANDS.values()) == 1448, "about 1.45 million examples"
    assert sum(MM15_SFT_PERCENT.values()) == pytest.approx(100)
    assert pretrain("mm1.5").weights == {"captions": 50, "interleaved": 10, "text": 40}
    assert continual().learning_rate == sft().learning_rate == 1e-5
    assert sft("mm1.5").learning_rate == 2e-5


@pytest.mark.parametrize("recipe", [pretrain(), sft()], ids=["adamw", "adafactor"])
def test_the_stock_trainer_gets_schedule_and_optimizer(recipe, tmp_path):
    recipe = recipe.change(steps=200, batch_size=4, warmup_share=0.1)
    trainer = Trainer(TRAINABLE, arguments(recipe, tmp_path))
    trainer.create_optimizer_and_scheduler(num_training_steps=recipe.steps)
    (first, *_), rates = trainer.optimizer.param_groups, []
    for _ in range(recipe.steps + 1):
        rates.append(first["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    shares = [
        laws.share_of_peak(step, num_steps=200, warmup_steps=20, final_share=recipe.final_share)
        for step in range(201)
    ]
    assert rates == pytest.approx([1e-3 * share for share in shares], abs=1e-18)
    assert first["weight_decay"] == recipe.weight_decay
    if recipe.optimizer == "adamw":
        assert (first["betas"], first["eps"]) == ((0.9, 0.95), 1e-8)


def test_adafactor_moves_by_the_rate_and_not_by_the_weights(tmp_path):
    """With scale_parameter the step would be 1000 times as long for weights of 1000."""
    steps = []
    for size in (1.0, 1000.0):
        layer = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.constant_(layer.weight, size)
        trainer = Trainer(layer, arguments(sft(), tmp_path))
        layer.weight.grad = torch.ones(4, 4)
        trainer.create_optimizer().step()
        group = trainer.optimizer.param_groups[0]
        assert not (group["relative_step"] or group["scale_parameter"] or group["warmup_init"])
        steps.append((layer.weight - size).abs().mean().item())
    assert steps[0] == pytest.approx(1e-3, rel=1e-3)
    assert steps[1] == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("processes, at_once, accumulated", [(1, 1, 512), (8, 4, 16), (512, 1, 1)])
def test_the_batch_is_the_same_on_any_number_of_devices(processes, at_once, accumulated, tmp_path):
    made = pretrain().training_arguments(
        output_dir=str(tmp_path),
        peak_rate=1e-3,
        per_device_batch_size=at_once,
        num_processes=processes,
    )
    assert made["gradient_accumulation_steps"] == accumulated


def test_a_batch_that_cannot_be_divided_is_an_error():
    with pytest.raises(ValueError, match="7 at once"):
        pretrain().training_arguments(output_dir="x", peak_rate=1.0, num_processes=7)


def test_processes_that_would_train_apart_are_an_error(tmp_path):
    settings = arguments(pretrain(), tmp_path)
    require_processes(settings, 1)
    with pytest.raises(ValueError, match="has joined 1 of these processes"):
        require_processes(settings, 2)


def test_what_the_recipe_decides_is_not_overridden_behind_its_back():
    with pytest.raises(ValueError, match=r"recipe\.change"):
        pretrain().training_arguments(output_dir="x", peak_rate=1.0, learning_rate=1.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stpes": 3}, "did you mean 'steps'"),
        ({"steps": "3"}, "steps.*whole number"),
        ({"steps": True}, "steps.*whole number"),
        ({"steps": 0}, "at least 1"),
        ({"warmup_share": 2}, "at most 1"),
        ({"frozen": ["vision"]}, "vision_tower"),
        ({"rate_scales": {"encoder": 1}}, "vision_tower"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"weights": {}}, "captions"),
        ({"beta1": None}, "AdamW"),
        ({"packing": "tight"}, "best_fit"),
        ({"unit": "sequences"}, "did you mean 'sequence'"),
    ],
)
def test_values_that_mean_nothing_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(**changes)


def test_an_unknown_generation_is_an_error():
    with pytest.raises(ValueError, match=r"'mm1', 'mm1\.5'"):
        sft("mm2")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_its_file(recipe, tmp_path):
    changed = recipe.change(steps=7, weights={"a": 1.5}, frozen=["decoder"], tile_size=None)
    for one in (recipe, changed):
        save_recipe(one, tmp_path / "recipe.json")
        assert load_recipe(tmp_path / "recipe.json") == one


def test_a_file_holds_what_differs(tmp_path):
    save_recipe(pretrain(steps=7), tmp_path / "recipe.json")
    content = json.loads((tmp_path / "recipe.json").read_text())
    assert content == {"base": "mm1-pretrain", "steps": 7}


def test_a_recipe_of_another_name_is_refused_before_it_is_lost(tmp_path):
    with pytest.raises(ValueError, match=r"change\(\)"):
        save_recipe(replace(pretrain(), name="mine"), tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"base": "mm1-pretrain", "step": 1}', "did you mean 'steps'"),
        ('{"steps": 1}', "must start from one of: mm1-pretrain"),
        ('{"base": "mm1-pretrain", "steps": -1}', "recipe.json.*at least 1"),
        ("[1]", "JSON object"),
        ("{", "no JSON"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(content, message, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        load_recipe(path)
    assert "recipe.json" in str(raised.value)


def test_a_name_that_is_no_recipe_lists_the_recipes():
    with pytest.raises(ValueError, match=", ".join(RECIPES)):
        load_recipe("mm1-pretraining")


def test_the_peak_is_the_law_of_the_decoder_or_the_recipe():
    model = MM1ForConditionalGeneration(tiny.config())
    expected = laws.learning_rate(non_embedding_parameters(model))
    assert peak_learning_rate(pretrain(), model) == expected
    assert peak_learning_rate(sft(), model) == 1e-5


def test_the_law_is_not_asked_about_sparse_decoders():
    model = MM1ForConditionalGeneration(tiny.config(text_config=tiny.text_configs()["mixtral"]))
    with pytest.raises(ValueError, match="dense parent"):
        peak_learning_rate(pretrain(), model)


def test_the_processor_is_copied_and_cuts_as_the_recipe_says():
    processor = make_processor()
    adapted = adapt_processor(sft(tile_size=14), processor)
    assert adapted.image_processor.plan(100, 100).num_tiles == 5
    assert adapted.image_processor.plan(100, 100).tile_height == 14
    assert processor.image_processor.plan(100, 100).num_tiles == 1
    with pytest.raises(ValueError, match="tiling"):
        adapt_processor(sft(tiling="spiral"), processor)


def test_sources_share_the_weight_of_their_part():
    web, vecap, text = source("web"), source("vecap"), source("text")
    recipe = pretrain(weights={"captions": 90, "text": 10})
    mixture = build_mixture(recipe, {"captions": {web: 93, vecap: 7}, "text": text}, seed=3)
    shares = {leaf.name: leaf.share for leaf in mixture.leaves}
    assert shares == pytest.approx({"web": 0.837, "vecap": 0.063, "text": 0.1})
    assert (mixture.unit, mixture.seed) == ("sequence", 3)


@pytest.mark.parametrize(
    "parts, message",
    [(["captions"], "no source for 'text'"), (["captions", "txt", "text"], "did you mean 'text'")],
)
def test_parts_and_sources_must_agree(parts, message):
    recipe = pretrain(weights={"captions": 90, "text": 10})
    with pytest.raises(ValueError, match=message):
        build_mixture(recipe, {part: source(part) for part in parts})


def test_sources_without_weights_count_by_documents():
    entries = [NamedData(source("a", 1), None, None), NamedData(source("b", 3), None, None)]
    shares = {leaf.name: leaf.share for leaf in mix(sft(), entries).leaves}
    assert shares == pytest.approx({"a": 0.25, "b": 0.75})


@pytest.mark.parametrize(
    "first, second, message",
    [(("text", None), (None, None), "no part"), ((None, 1.0), (None, None), "no weight")],
)
def test_half_described_sources_are_errors(first, second, message):
    entries = [NamedData(source("a"), *first), NamedData(source("b"), *second)]
    with pytest.raises(ValueError, match=message):
        mix(pretrain(weights={"text": 1}), entries)


def test_groups_of_a_recipe_reach_the_optimizer_with_the_schedule(tmp_path):
    """Every part keeps its own share of the peak at every step."""
    recipe = pretrain(steps=20, batch_size=1, warmup_share=0.5, rate_scales={"vision_tower": 0.3})
    model = MM1ForConditionalGeneration(tiny.config())
    groups = parameter_groups(
        model, learning_rate=1e-3, weight_decay=0.1, rate_scales=recipe.rate_scales
    )
    optimizer = torch.optim.AdamW(groups)
    trainer = Trainer(model, arguments(recipe, tmp_path), optimizers=(optimizer, None))
    trainer.create_scheduler(num_training_steps=recipe.steps)
    for _ in range(7):
        optimizer.step()
        trainer.lr_scheduler.step()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["decoder.decay"] == pytest.approx(7e-4)
    assert rates["vision_tower.decay"] == pytest.approx(0.3 * 7e-4)


def test_one_document_per_sequence_where_nothing_is_packed(tmp_path):
    processor = make_processor()
    model = make_model(processor)
    pieces = {}
    for packing in ("none", "best_fit"):
        recipe = sft(steps=4, batch_size=2, packing=packing, sequence_length=64, tile_size=None)
        run = plan_run(
            recipe,
            model=model,
            processor=processor,
            mixture=Mixture({source("a", 9): 1}, unit="document"),
            cache_folder=tmp_path / packing,
        )
        assert len(run.dataset) == recipe.num_sequences
        pieces[packing] = {len(pack.pieces) for pack in run.dataset.plan}
    assert pieces["none"] == {1}
    assert min(pieces["best_fit"]) > 1


def test_all_fields_of_a_recipe_can_be_changed_but_its_name():
    assert {entry.name for entry in fields(pretrain())} - set(CHANGEABLE) == {
        "name",
        "stage",
        "standing",
    }


@pytest.mark.parametrize(("sharded", "optim"), [(True, "adamw_torch"), (False, "adafactor")])
def test_sharding_and_adafactor_are_fine_by_themselves(sharded, optim):
    args = SimpleNamespace(optim=optim)
    require_optimizer_for_sharding(SimpleNamespace(is_fsdp_enabled=sharded, args=args))


def test_adafactor_under_fsdp_is_refused_before_its_first_step():
    trainer = SimpleNamespace(is_fsdp_enabled=True, args=SimpleNamespace(optim="adafactor"))
    with pytest.raises(ValueError, match="AdaFactor, which mixes whole and sharded tensors"):
        require_optimizer_for_sharding(trainer)
