"""`mm1 ablate` runs a study of one's own in two processes, shows it, and says what is wrong."""

import argparse
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from mm1_hf.cli import ablate, main

# Another option is a decision: what belongs to a study goes into the study.
FLAGS = {"--quick", "--axes", "--seeds", "--output", "--jobs", "--list"}

STUDY = '''
"""A study without a model: figures are arithmetic."""

from dataclasses import dataclass

from mm1_hf.ablations import Axis, Study


@dataclass(frozen=True)
class Settings:
    size: int = 2
    colour: str = "red"


def run(settings, context):
    return {"score": settings.size + 0.1 * context.seed}


STUDY = Study(
    name="own",
    baseline=Settings(),
    axes=(
        Axis("size", "size", {"1": 1, "2": 2}),
        Axis("colour", "colour", {"blue": "blue"}),
    ),
    run=run,
    seeds=(0, 1),
)
NUMBER = 7
'''


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "my_study.py"
    path.write_text(STUDY)
    return f"{path}:STUDY"


def test_options_are_few_and_frozen():
    parser = argparse.ArgumentParser(add_help=False)
    ablate.add_arguments(parser)
    assert {option for action in parser._actions for option in action.option_strings} == FLAGS


def test_a_study_of_ones_own_is_run_and_shown(study, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["ablate", study, "--output", str(output), "--jobs", "1"]) == 0
    assert "| size=1 | 2 | 1.050 ± 0.635 |" in capsys.readouterr().out
    assert {"results.md", "results.json", "plots", "own"} <= {one.name for one in output.iterdir()}


@pytest.mark.slow
def test_two_processes_do_what_one_does(study, tmp_path, capsys):
    pages = []
    for jobs in ("1", "2"):
        output = tmp_path / jobs
        assert main(["ablate", study, "--output", str(output), "--jobs", jobs]) == 0
        pages.append((output / "results.md").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


def test_axes_and_seeds_can_be_chosen(study, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["ablate", study, *output, "--axes", "colour", "--seeds", "3"]) == 0
    shown = capsys.readouterr().out
    assert "| colour=blue | 3 |" in shown and "size=1" not in shown


def test_the_list_shows_axes_and_runs_nothing(study, tmp_path, capsys):
    assert main(["ablate", study, "--list", "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "own: 6 runs, 2 seeds of 3 settings" in shown and "1, [2]" in shown
    assert not (tmp_path / "out").exists()


def test_the_papers_axes_are_listed(capsys):
    assert main(["ablate", "paper", "--quick", "--list"]) == 0
    shown = capsys.readouterr().out
    for axis in ("resolution", "tokens", "connector", "mixture", "experts", "rate", "tiling"):
        assert f"  {axis} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "is no study"),
        (["{file}:MISSING"], "has no name 'MISSING'"),
        (["{file}:NUMBER"], "a Study or a sequence of them is expected"),
        (["{file}:STUDY", "--quick"], "small version of 'paper'"),
        (["{file}:STUDY", "--axes", "weight"], "axes are: colour, size"),
        (["{file}:STUDY", "--seeds", "0"], "at least one"),
        (["{file}:STUDY", "--jobs", "0"], "at least 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(study, tmp_path, capsys, arguments, message):
    file = study.removesuffix(":STUDY")
    given = [one.replace("{file}", file) for one in arguments]
    assert main(["ablate", *given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_no_process_survives_the_first_one(tmp_path):
    path = tmp_path / "my_study.py"
    slow = 'import time\n    (context.folder / "begun").touch()\n    time.sleep(120)\n    return'
    path.write_text(STUDY.replace("return", slow))
    code = "import sys; from mm1_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["ablate", f"{path}:STUDY", "--output", str(tmp_path / "out"), "--jobs", "2"]
    first = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        wait_until(lambda: len(list((tmp_path / "out").rglob("begun"))) == 2)
    finally:
        first.kill()
        first.wait()
    # Whoever still runs a cell holds its lock.
    locks = [FileLock(str(one)) for one in (tmp_path / "out").rglob("cells/*.lock")]
    for lock in locks:
        with lock.acquire(timeout=30):
            pass


def wait_until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "the processes did not begin"
        time.sleep(0.2)
