"""Signals end a run at a step's end, with a checkpoint, on all ranks."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import Trainer

from mm1_hf.training.callbacks import SaveOnSignal, survival_callbacks
from mm1_hf.training.checkpoints import SEAL, last_complete_checkpoint

from . import jobs, small_runs

pytestmark = pytest.mark.slow

LIVES = {
    "stock": {"run": "stock", "trainer": "stock", "end": "term"},
    "resumed": {"run": "stock", "trainer": "stock", "resume": True},
    "whole": {"run": "whole"},
    "group": {"run": "group", "workers": 1, "end": "term_all"},
    "group-again": {"run": "group", "workers": 2, "resume": True, "end": "term_all", "end_step": 3},
    "one-rank": {"run": "one-rank", "ranks": 2, "end": "term", "end_rank": 1},
    "nan": {"run": "nan", "ranks": 2, "end": "nan", "end_rank": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("signals")


@pytest.fixture(scope="module")
def lived(folder) -> dict[str, jobs.Lived]:
    return dict(zip(LIVES, jobs.live(folder, *LIVES.values()), strict=True))


@pytest.mark.parametrize("run", ["stock", "group", "one-rank"])
def test_a_terminated_run_finishes_the_step_saves_and_says_so(lived, folder, run):
    assert set(lived[run].codes) == {128 + signal.SIGTERM}
    assert max(lived[run].losses) == 3, "the step in which the signal came is the last"
    assert (folder / run / "checkpoint-3" / SEAL).exists()


def test_data_workers_of_a_resumed_run_are_shielded_too(lived):
    assert lived["group-again"].codes == [128 + signal.SIGTERM]
    assert sorted(lived["group-again"].losses) == [4]


def test_resumed_it_has_the_losses_of_the_whole_run_to_the_bit(lived):
    assert lived["resumed"].codes == [0]
    assert sorted(lived["resumed"].losses) == [4, 5]
    both = lived["stock"].losses | lived["resumed"].losses
    assert both == lived["whole"].losses


def test_a_loss_that_is_no_number_on_one_rank_stops_all_and_names_its_packs(lived, folder):
    assert lived["nan"].codes == [1, 1]
    first, second = (rank["error"] for rank in lived["nan"].seen)
    assert first == second
    # Rank 1 has the last two of the four packs of step 3.
    assert first.startswith("The loss of step 3 is nan for packs 10, 11 with documents ")
    assert last_complete_checkpoint(folder / "nan").name == "checkpoint-2"


# In this process.


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return small_runs.packs(tmp_path_factory.mktemp("corpus"))


def terminate(model, args, outputs) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_then_return_lets_the_script_go_on_and_gives_the_signal_back(rows, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    callback = SaveOnSignal(then="return")
    run = small_runs.trainer(rows, tmp_path, callbacks=[callback])
    run.model.register_forward_hook(terminate)
    run.train()
    assert (run.state.global_step, callback.received) == (1, signal.SIGTERM)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_last_checkpoint_stays_where_only_the_best_would_be_kept(rows, tmp_path):
    settings = {
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
    }
    run = small_runs.trainer(
        rows,
        tmp_path,
        Trainer,
        eval_dataset=rows[:2],
        callbacks=[SaveOnSignal(then="return")],
        args=settings,
    )
    calls = []

    def terminate_at_third(model, args, outputs) -> None:
        calls.append(model.training)
        if sum(calls) == 3 and model.training:
            terminate(model, args, outputs)

    run.model.register_forward_hook(terminate_at_third)
    run.train()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-3"


def test_outside_the_main_thread_a_run_trains_without_listening(rows, tmp_path, caplog):
    run = small_runs.trainer(rows, tmp_path)
    thread = threading.Thread(target=run.train)
    thread.start()
    thread.join()
    assert run.state.global_step == 2
    assert "Not in the main thread" in caplog.text


def test_what_is_given_is_not_brought_along_twice(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path, callbacks=survival_callbacks())
    kinds = [type(one).__name__ for one in run.callback_handler.callbacks]
    assert kinds.count("SaveOnSignal") == kinds.count("SafeCheckpoints") == 1


def test_an_unknown_end_is_refused():
    with pytest.raises(ValueError, match="then is 'stop'"):
        SaveOnSignal(then="stop")


def test_a_finished_epoch_is_not_saved_twice_after_a_signal():
    callback, control = SaveOnSignal(), SimpleNamespace(should_save=True, should_evaluate=True)
    callback.received = signal.SIGTERM
    callback.on_epoch_end(None, None, control)
    assert not control.should_save
    assert not control.should_evaluate
