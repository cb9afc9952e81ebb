"""A half-written checkpoint is never picked up, and a full disk costs no checkpoint."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from mm1_hf.training import checkpoints
from mm1_hf.training.callbacks import survival_callbacks
from mm1_hf.training.checkpoints import (
    STATE,
    checkpoint_bytes,
    checkpoint_problems,
    last_complete_checkpoint,
    seal_checkpoint,
)

from . import jobs, small_runs

pytestmark = pytest.mark.slow

SAVING = {"save_strategy": "steps", "save_steps": 1}
LIVES = {
    "killed": {"run": "run", "end": "kill_saving", "end_step": 4},
    "resumed": {"run": "run", "resume": True},
    "whole": {"run": "whole"},
}
LIMITED = {"arguments": {"save_total_limit": 1}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return small_runs.packs(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory) -> Path:
    """Two checkpoints of the stock trainer."""
    folder = tmp_path_factory.mktemp("stock")
    small_runs.trainer(rows, folder, Trainer, args=SAVING).train()
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"],
)
def test_a_file_that_is_cut_off_makes_the_one_before_the_last(run, caplog, name, sealed):
    newest = run / "checkpoint-2"
    if sealed:
        seal_checkpoint(newest)
    assert last_complete_checkpoint(run) == newest
    cut(newest / name)
    assert last_complete_checkpoint(run) == run / "checkpoint-1"
    assert f"Ignoring {newest}" in caplog.text
    assert name in caplog.text


@pytest.mark.parametrize("name", [STATE, "model.safetensors"])
def test_a_file_that_everything_needs_is_missed(run, name):
    (run / "checkpoint-2" / name).unlink()
    assert last_complete_checkpoint(run) == run / "checkpoint-1"


def test_only_a_seal_knows_files_of_other_ranks(run):
    newest = run / "checkpoint-2"
    (newest / "rng_state_1.pth").write_bytes((newest / "rng_state.pth").read_bytes())
    seal_checkpoint(newest)
    (newest / "rng_state_1.pth").unlink()
    assert checkpoint_problems(newest) == ["rng_state_1.pth is missing"]


def test_files_beyond_the_seal_do_no_harm(run):
    seal_checkpoint(run / "checkpoint-2")
    (run / "checkpoint-2" / "notes.txt").write_text("mine")
    assert last_complete_checkpoint(run) == run / "checkpoint-2"


def test_a_missing_shard_is_missed(run):
    weights = run / "checkpoint-2" / "model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00002.safetensors"))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    weights.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint_problems(weights.parent) == ["model-2.safetensors is missing"]


def test_a_state_of_another_step_and_a_sentinel_are_seen(run):
    newest = run / "checkpoint-2"
    shutil.copy(run / "checkpoint-1" / STATE, newest / STATE)
    (newest / checkpoints.SENTINEL).touch()
    first, second = checkpoint_problems(newest)
    assert first == f"{STATE} is of step 1"
    assert checkpoints.SENTINEL in second


def test_what_is_no_checkpoint_is_not_looked_at(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-last").mkdir()
    (tmp_path / "checkpoint-3").touch()
    assert last_complete_checkpoint(tmp_path) is None


def test_resuming_from_what_is_not_whole_is_refused_and_the_whole_one_named(rows, tmp_path):
    small_runs.trainer(rows, tmp_path, args=SAVING).train()
    (tmp_path / "checkpoint-2" / STATE).unlink()
    again = small_runs.trainer(rows, tmp_path, args=SAVING)
    with pytest.raises(ValueError, match=r"checkpoint-2 is not a whole .*is .*checkpoint-1"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    again.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in again.state.log_history if "loss" in entry] == [1, 2]


def test_resuming_from_nothing_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        small_runs.trainer(rows, tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_that_is_written_over_is_not_whole_in_between(rows, tmp_path, monkeypatch):
    small_runs.trainer(rows, tmp_path, args=SAVING).train()
    whole = []
    save = torch.save

    def look(thing, path, *args, **kwargs) -> None:
        whole.append(last_complete_checkpoint(tmp_path))
        save(thing, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", look)
    small_runs.trainer(rows, tmp_path, args=SAVING | {"max_steps": 1}).train()
    assert set(whole) == {tmp_path / "checkpoint-2"}
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert checkpoint_problems(tmp_path / "checkpoint-1") == []


@pytest.fixture
def disk(monkeypatch):
    """A disk whose free bytes can be set."""
    usage = shutil.disk_usage("/")._replace(free=10**12)
    state = {"free": 10**12}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=state["free"]))
    return state


@pytest.mark.parametrize("kind", ["mm1", "stock"])
def test_a_checkpoint_that_does_not_fit_is_not_begun(rows, tmp_path, disk, kind):
    limited = {"args": SAVING | {"save_total_limit": 1}}
    if kind == "stock":
        limited |= {"kind": Trainer, "callbacks": survival_callbacks()}
    run = small_runs.trainer(rows, tmp_path, **limited)

    def fill(model, args, outputs) -> None:
        disk["free"] = 12345 if run.state.global_step == 1 else 10**12

    run.model.register_forward_hook(fill)
    with pytest.raises(OSError, match="12,345 bytes are free") as caught:
        run.train()
    needed = checkpoint_bytes(run.model, run.optimizer)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "checkpoint-2")
    assert f"needs {needed:,} bytes" in str(caught.value)
    assert f"The last whole checkpoint is {tmp_path / 'checkpoint-1'}" in str(caught.value)
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_a_disk_that_fills_while_writing_costs_no_checkpoint(rows, tmp_path, disk, monkeypatch):
    run = small_runs.trainer(rows, tmp_path, args=SAVING | {"save_total_limit": 1})
    save = torch.save

    def run_full(thing, path, *args, **kwargs) -> None:
        if str(path).endswith("checkpoint-2/optimizer.pt"):
            Path(path).write_bytes(b"half")
            disk["free"] = 0
            raise RuntimeError("PytorchStreamWriter failed writing file data/3")
        save(thing, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", run_full)
    with pytest.raises(OSError, match=r"checkpoint needs .* bytes are free"):
        run.train()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert not (tmp_path / "checkpoint-2").exists(), "it only takes space"


def test_other_errors_while_writing_stay_what_they_are(rows, tmp_path, monkeypatch):
    run = small_runs.trainer(rows, tmp_path, args=SAVING)

    def fail(*args, **kwargs) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run.train()


def test_the_needed_space_is_that_of_weights_and_optimizer(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path, args=SAVING)
    run.train()
    folder = tmp_path / "checkpoint-2"
    written = sum((folder / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    needed = checkpoint_bytes(run.model, run.optimizer) - checkpoints._SMALL_FILES
    assert 0.5 * written < needed <= written
    everything = sum(file.stat().st_size for file in folder.iterdir())
    assert everything < needed + checkpoints._SMALL_FILES


def test_killed_while_saving_it_resumes_from_the_checkpoint_before(tmp_path):
    killed, resumed, whole = jobs.live(
        tmp_path, LIVES["killed"] | LIMITED, LIVES["resumed"] | LIMITED, LIVES["whole"]
    )
    assert killed.codes == [-9]
    assert resumed.codes == [0]
    assert min(resumed.losses) == 3, "checkpoint-4 was half written"
    assert killed.losses | resumed.losses == whole.losses
    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-5"
    for step, loss in killed.losses.items():
        assert loss == whole.losses[step]
