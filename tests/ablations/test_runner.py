"""Runs are kept one by one, resumed after a kill, shared between processes, and never mixed."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from mm1_hf.ablations import Axis, Context, StageCache, Study
from mm1_hf.ablations.results import load_results
from mm1_hf.ablations.runner import run_study


@dataclass(frozen=True)
class Settings:
    size: int = 2
    rate: float = 0.1


def make_study(run, *, baseline: Settings | None = None, seeds=(0, 1)) -> Study:
    return Study(
        name="toy",
        baseline=baseline or Settings(),
        axes=(Axis("size", "size", {"1": 1, "2": 2, "3": 3}),),
        run=run,
        seeds=seeds,
    )


def measure(settings: Settings, context: Context) -> dict[str, float]:
    return {"score": settings.size + 0.1 * context.seed}


def quiet(_: str) -> None:
    pass


def test_every_run_is_made_once_and_read_back(tmp_path):
    calls = []

    def run(settings, context):
        calls.append((settings.size, context.seed))
        return measure(settings, context)

    study = make_study(run)
    assert run_study(study, tmp_path, report=quiet).done == 6
    assert run_study(study, tmp_path, report=quiet) == (0, 6)
    assert sorted(calls) == sorted(set(calls))
    results = load_results(study, tmp_path)
    assert results.values("size=3", "score") == {0: 3.0, 1: 3.1}
    assert results.values("baseline", "score") == results.values("size=2", "score")
    assert (results.runs, results.missing) == (6, 0)


def test_what_was_interrupted_goes_on_where_it_stopped(tmp_path):
    made = []

    def run(settings, context):
        made.append((settings.size, context.seed))
        if len(made) == 4:
            raise KeyboardInterrupt
        return measure(settings, context)

    with pytest.raises(KeyboardInterrupt):
        run_study(make_study(run), tmp_path, report=quiet)
    assert load_results(make_study(run), tmp_path).missing == 3
    interrupted = made[3]
    run_study(make_study(run), tmp_path, report=quiet)
    assert len(made) == 7 and made.count(interrupted) == 2
    whole, cut = load_results(make_study(run), tmp_path), tmp_path / "other"
    run_study(make_study(measure), cut, report=quiet)
    assert whole.figures == load_results(make_study(measure), cut).figures


def test_more_seeds_and_axes_may_join_but_another_baseline_may_not(tmp_path):
    run_study(make_study(measure), tmp_path, report=quiet)
    assert run_study(make_study(measure, seeds=(0, 1, 2)), tmp_path, report=quiet) == (3, 6)
    with pytest.raises(ValueError, match=r"rate 0\.1, not 0\.2.*another output folder"):
        run_study(make_study(measure, baseline=Settings(rate=0.2)), tmp_path, report=quiet)


def test_other_versions_of_the_libraries_are_not_mixed_in(tmp_path):
    run_study(make_study(measure), tmp_path, report=quiet)
    path = tmp_path / "toy" / "study.json"
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"torch '1\.0', not"):
        run_study(make_study(measure), tmp_path, report=quiet)


def test_two_workers_share_the_runs(tmp_path):
    made, together = [], threading.Barrier(2, timeout=20)

    def run(settings, context):
        if len(made) < 2:
            made.append((settings.size, context.seed))
            together.wait()  # both are inside a run at once, or the barrier breaks
        else:
            made.append((settings.size, context.seed))
        return measure(settings, context)

    study = make_study(run)
    workers = [
        threading.Thread(target=run_study, args=(study, tmp_path), kwargs={"report": quiet})
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(made) == sorted(set(made)) and len(made) == 6


def test_what_a_run_prints_goes_to_its_log(tmp_path, capsys):
    def run(settings, context):
        print("seen", settings.size)
        (context.folder / "checkpoint").write_text("x")
        return measure(settings, context)

    run_study(make_study(run, seeds=(0,)), tmp_path, report=quiet)
    assert capsys.readouterr().out == ""
    logs = [path.read_text() for path in (tmp_path / "toy" / "cells").glob("*.log")]
    assert sorted(logs) == ["seen 1\n", "seen 2\n", "seen 3\n"]
    assert not list((tmp_path / "toy" / "scratch").iterdir())


def test_a_figure_that_is_no_number_counts_as_missing(tmp_path):
    def run(settings, context):
        return {"score": float("nan") if settings.size == 3 else 1.0, "other": 2.0}

    study = make_study(run)
    run_study(study, tmp_path, report=quiet)
    results = load_results(study, tmp_path)
    assert results.values("size=3", "score") == {}
    assert results.interval("size=3", "score").n == 0
    assert results.interval("size=3", "other").n == 2


def test_a_run_must_return_figures(tmp_path):
    with pytest.raises(ValueError, match="figures by name are expected"):
        run_study(make_study(lambda *_: {}), tmp_path, report=quiet)


def test_the_cache_makes_each_thing_once_and_never_half(tmp_path):
    cache, made = StageCache(tmp_path), []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "part").write_text("half")
        if len(made) == 1:
            raise KeyboardInterrupt
        (folder / "whole").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        cache.get("thing", {"width": 1}, make)
    folders = [cache.get("thing", {"width": 1}, make) for _ in range(3)]
    assert len(made) == 2 and len(set(folders)) == 1
    assert (folders[0] / "whole").read_text() == "done"
    assert json.loads((folders[0] / "key.json").read_text()) == {"width": 1}
    assert cache.get("thing", {"width": 2}, make) != folders[0]


def test_the_cache_clears_what_a_killed_process_left(tmp_path):
    cache = StageCache(tmp_path)
    name = cache.get("thing", {}, lambda folder: None).name
    (tmp_path / name / "key.json").unlink()
    (tmp_path / name).rename(tmp_path / f"{name}.killed")
    cache.get("thing", {}, lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.lock"]
