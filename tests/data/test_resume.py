"""A killed and resumed run sees exactly what an uninterrupted one sees."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from . import small_corpus as corpus

pytestmark = pytest.mark.slow

STEPS = 8
PLAIN = {"ranks": 1, "workers": 0}


def killed_twice(workers: int) -> list[dict]:
    """Killed in the midst of a checkpoint interval, and right behind a checkpoint."""
    phase = {"ranks": 1, "workers": workers}
    return [{**phase, "kill_at": 3}, {**phase, "kill_at": 6}, phase]


RUNS = {
    "whole": [PLAIN],
    "workers-0": killed_twice(0),
    "workers-1": killed_twice(1),
    "workers-4": killed_twice(4),
    "ranks-2": [{"ranks": 2, "workers": 0, "kill_at": 5}, {"ranks": 2, "workers": 1}],
    "growing": [{**PLAIN, "kill_at": 3}, {"ranks": 2, "workers": 0}],
}
RUNS_OF_FOUR = {
    "whole": [PLAIN],
    "ranks-4": [{"ranks": 4, "workers": 0, "kill_at": 5}, {"ranks": 4, "workers": 0}],
    "one-two-four": [
        {"ranks": 1, "workers": 0, "kill_at": 3},
        {"ranks": 2, "workers": 0, "kill_at": 5},
        {"ranks": 4, "workers": 0},
    ],
}


def train(folder: Path, runs: dict) -> dict[str, list[dict[int, dict]]]:
    """Run everything; what each phase of each run saw at each step, ranks joined."""
    corpus.write_corpus(folder / "corpus")
    script = Path(__file__).with_name("resume_runs.py")
    with (folder / "output").open("w") as output:
        done = subprocess.run(
            [sys.executable, str(script), str(folder), json.dumps(runs)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=200,
        )
    assert done.returncode == 0, (folder / "output").read_text()[-4000:]
    return {
        run: [read_phase(folder / run, number, settings) for number, settings in enumerate(phases)]
        for run, phases in runs.items()
    }


def read_phase(folder: Path, number: int, settings: dict) -> dict[int, dict]:
    """Rows and tiles by step, those of rank 0 first; without steps that a rank did not reach."""
    by_step: dict[int, list[dict]] = defaultdict(list)
    for rank in range(settings["ranks"]):
        for line in (folder / f"seen-{number}-{rank}.jsonl").read_text().splitlines():
            record = json.loads(line)
            by_step[record["step"]].append(record)
    return {
        step: {
            "rows": [row for record in records for row in record["rows"]],
            "tiles": [tile for record in records for tile in record["tiles"]],
            "losses": [record["loss"] for record in records],
        }
        for step, records in by_step.items()
        if len(records) == settings["ranks"]
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return train(tmp_path_factory.mktemp("resume"), RUNS)


def require_the_same_batches(phases: list[dict[int, dict]], whole: dict[int, dict]) -> None:
    assert sorted(whole) == list(range(STEPS))
    assert {step for phase in phases for step in phase} == set(whole), "no step is lost"
    for phase in phases:
        for step, batch in phase.items():
            assert batch["rows"] == whole[step]["rows"], f"step {step}"
            assert batch["tiles"] == whole[step]["tiles"], f"step {step}"


def test_every_step_sees_other_packs(seen):
    rows = [row for batch in seen["whole"][0].values() for row in batch["rows"]]
    assert len(set(rows)) == len(rows) == 4 * STEPS


@pytest.mark.parametrize("run", ["workers-0", "workers-1", "workers-4"])
def test_killed_twice_and_resumed_every_batch_and_loss_is_the_same(seen, run):
    (whole,) = seen["whole"]
    first, second, third = seen[run]
    assert (min(first), max(first)) == (0, 2)
    assert (min(second), max(second)) == (2, 5)
    assert (min(third), max(third)) == (6, 7)
    require_the_same_batches([first, second, third], whole)
    for phase in (first, second, third):
        for step, batch in phase.items():
            assert batch["losses"] == whole[step]["losses"], f"step {step}"


@pytest.mark.parametrize("run", ["ranks-2", "growing"])
def test_ranks_together_see_what_one_sees(seen, run):
    require_the_same_batches(seen[run], seen["whole"][0])


def test_four_ranks_and_a_growing_job_see_what_one_rank_sees(tmp_path):
    seen = train(tmp_path, RUNS_OF_FOUR)
    require_the_same_batches(seen["ranks-4"], seen["whole"][0])
    require_the_same_batches(seen["one-two-four"], seen["whole"][0])
