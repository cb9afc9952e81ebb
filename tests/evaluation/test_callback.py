from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer

from mm1_hf.evaluation import (
    EvaluationCallback,
    EvaluationSettings,
    Example,
    Scores,
    evaluate,
    mean_figure,
)

from . import small_tasks as small
from .small_training import make_trainer

SETTINGS = EvaluationSettings(num_shots=1, seeds=(0, 1), batch_size=4, max_new_tokens=3)


@pytest.fixture(scope="module")
def processor():
    return small.processor()


def callback(**changes):
    task = small.task(**changes.pop("task", {}))
    settings = {
        "every": 2,
        "demonstrations": small.examples(6, start=50, split="t"),
        "settings": SETTINGS,
    }
    examples = changes.pop("examples", small.examples(5))
    return EvaluationCallback(task, examples, **{**settings, **changes})


def logged(trainer, name):
    return {e["step"]: e[name] for e in trainer.state.log_history if name in e}


def draw_random_numbers(answers, examples):
    torch.rand(3)
    return small.exact(answers, examples)


def test_training_is_the_same_to_the_bit_with_and_without(processor, tmp_path):
    plain = make_trainer(processor, tmp_path)
    plain.train()
    watched = make_trainer(processor, tmp_path)
    watched.model.model.vision_tower.eval()
    callback(task={"metric": draw_random_numbers}, every=1).attach(watched)
    watched.train()
    assert logged(watched, "loss") == logged(plain, "loss")
    assert len(logged(plain, "loss")) == 4
    for one, other in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_figures_are_logged_at_their_steps(processor, tmp_path):
    trainer = make_trainer(processor, tmp_path)
    told = callback().attach(trainer)
    trainer.train()
    accuracies = logged(trainer, "eval_colours_accuracy")
    assert list(accuracies) == list(told.results) == [2, 4]
    assert set(told.results[4]) == {0, 1}
    assert list(logged(trainer, "eval_colours_empty")) == [2, 4]
    after = evaluate(
        trainer.model,
        processor,
        small.task(),
        small.examples(5),
        demonstrations=small.examples(6, start=50, split="t"),
        num_shots=1,
        seeds=(0, 1),
        max_new_tokens=3,
        progress=False,
    )
    assert after.per_seed == told.results[4]
    assert after.figures["accuracy"].value == accuracies[4]


@pytest.mark.parametrize(("every", "steps"), [("end", [4]), ("evaluate", [2, 4])])
def test_it_asks_when_it_is_told_to(processor, tmp_path, every, steps):
    changes = {"eval_strategy": "steps", "eval_steps": 2} if every == "evaluate" else {}
    trainer = make_trainer(processor, tmp_path, **changes)
    told = callback(every=every).attach(trainer)
    trainer.train()
    assert list(told.results) == steps
    assert list(logged(trainer, "eval_colours_accuracy")) == steps


class PlannedScores:
    """A metric whose figure at each evaluation is planned."""

    def __init__(self, *scores):
        self.scores = iter(scores)

    def __call__(self, answers, examples):
        score = next(self.scores)
        return Scores({"accuracy": mean_figure([score])}, (score,) * len(examples))


def test_the_checkpoint_that_answers_best_is_kept(processor, tmp_path):
    trainer = make_trainer(
        processor,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="eval_colours_accuracy",
        greater_is_better=True,
    )
    settings = replace(SETTINGS, seeds=(0,))
    planned = {"metric": PlannedScores(0.25, 0.75, 0.5, 0.0)}
    callback(task=planned, every="evaluate", settings=settings).attach(trainer)
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (2, 0.75)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-3").exists()


def test_stopping_early_can_wait_for_a_figure(processor, tmp_path):
    trainer = make_trainer(
        processor,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_colours_accuracy",
        greater_is_better=True,
        save_strategy="best",
        load_best_model_at_end=True,
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=1))
    settings = replace(SETTINGS, seeds=(0,))
    planned = {"metric": PlannedScores(0.25, 0.75, 0.5, 0.0)}
    told = callback(task=planned, every="evaluate", settings=settings).attach(trainer)
    trainer.train()
    assert list(told.results) == [1, 2, 3]


@pytest.mark.parametrize("every", [2, "evaluate"])
def test_answering_does_not_count_as_training_time(processor, tmp_path, every):
    changes = {"eval_strategy": "steps", "eval_steps": 2} if every == "evaluate" else {}
    trainer = make_trainer(processor, tmp_path, **changes)
    clock = SimpleNamespace(is_paused=False, seen=[])

    @contextmanager
    def paused():
        clock.is_paused = True
        yield
        clock.is_paused = False

    def metric(answers, examples):
        clock.seen.append(clock.is_paused)
        return small.exact(answers, examples)

    trainer.meter = SimpleNamespace(paused=paused)
    callback(task={"metric": metric}, every=every).attach(trainer)
    trainer.train()
    assert clock.seen == [True] * 4 and not clock.is_paused


def test_reporting_integrations_see_the_figures(processor, tmp_path):
    seen = []
    trainer = make_trainer(processor, tmp_path)
    listener = trainer.callback_handler.callbacks[0]
    listener.on_log = lambda args, state, control, logs=None, **_: seen.append(set(logs))
    callback(every=4).attach(trainer)
    trainer.train()
    assert any("eval_colours_accuracy" in names for names in seen)


def test_trouble_stops_training_or_is_logged(processor, tmp_path):
    asked = [*small.examples(2), Example(key="bad", images=(b"",), question="?", answers=("a",))]
    trainer = make_trainer(processor, tmp_path)
    callback(examples=asked).attach(trainer)
    with pytest.raises(ValueError, match="'bad'"):
        trainer.train()
    trainer = make_trainer(processor, tmp_path)
    settings = EvaluationSettings(on_bad_image="count")
    callback(examples=asked, settings=settings).attach(trainer)
    trainer.train()
    assert logged(trainer, "eval_colours_unreadable") == {2: 1, 4: 1}


def test_what_cannot_work_is_refused_before_the_first_step(processor, tmp_path):
    trainer = make_trainer(processor, tmp_path)
    trainer.add_callback(callback())
    with pytest.raises(ValueError, match=r"attach\(trainer\)"):
        trainer.train()
    trainer = make_trainer(processor, tmp_path, processing_class=None)
    callback().attach(trainer)
    with pytest.raises(ValueError, match="processor="):
        trainer.train()
    trainer = make_trainer(processor, tmp_path)
    callback(demonstrations=None).attach(trainer)
    with pytest.raises(ValueError, match="demonstrations="):
        trainer.train()
    for words, changes in {"every": {"every": 0}, "No example": {"examples": []}}.items():
        with pytest.raises(ValueError, match=words):
            callback(**changes)
    assert trainer.state.global_step == 0


def test_weights_spread_over_processes_are_refused(processor, tmp_path):
    spread = nn.Linear(1, 1)
    spread.weight.ds_id = 0
    sharded = nn.Linear(1, 1)
    sharded.weight.device_mesh = "mesh"
    wrapped = nn.Sequential(type("FullyShardedDataParallel", (nn.Linear,), {})(1, 1))
    one = callback().attach(make_trainer(processor, tmp_path))
    for model, name in ((spread, "ZeRO-3"), (sharded, "DTensor"), (wrapped, "FSDP")):
        with pytest.raises(ValueError, match=f"{name}.*mm1 evaluate"):
            one.on_train_begin(SimpleNamespace(fsdp=None), None, None, model=model)


def test_attaching_twice_asks_once(processor, tmp_path):
    trainer: Trainer = make_trainer(processor, tmp_path)
    one = callback()
    one.attach(trainer).attach(trainer)
    trainer.train()
    assert len(logged(trainer, "eval_colours_accuracy")) == 2
