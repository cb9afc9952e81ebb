"""`mm1 bench` runs what stands in benchmarks/, and the committed page is what it would write."""

import json

import pytest

from mm1_hf.cli import bench, main

GOOD = '''"""How fast is nothing?

More words.
"""
import json, sys
print("on the way")
print(json.dumps({"question": "q", "ratios": {"speed": 2.0, "memory": 1.25}, "figures": {},
    "machine": {"cpu": "two cores"}, "versions": {"torch": "9"}, "asked": sys.argv[1:]}))
'''


@pytest.fixture
def clone(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks" / "good.py").write_text(GOOD)
    (tmp_path / "benchmarks" / "harness.py").write_text("")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    return tmp_path


def test_every_benchmark_asks_a_question(root):
    found = bench.find_benchmarks(root / "benchmarks")
    assert {"loss", "attention", "step"} <= {one.name for one in found}
    assert [one.name for one in found if not one.question.endswith("?")] == []


def test_the_committed_page_is_made_of_the_committed_results(root):
    results = json.loads((root / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    page = bench.render_page(results, bench.find_benchmarks(root / "benchmarks"))
    assert (root / "docs" / "benchmarks.md").read_text(encoding="utf-8") == page


def test_results_are_printed_and_written(clone, capsys):
    assert main(["bench", "good", "--quick", "--write"]) == 0
    assert "| speed | 2 |" in capsys.readouterr().out
    kept = json.loads((clone / "docs" / "benchmarks.json").read_text())
    assert (kept["good"]["asked"], kept["good"]["quick"]) == (["--quick"], True)
    page = (clone / "docs" / "benchmarks.md").read_text()
    assert "## How fast is nothing?" in page and "| memory | 1.25 |" in page


def test_results_of_other_benchmarks_are_kept(clone):
    (clone / "benchmarks" / "other.py").write_text(GOOD.replace("nothing", "light"))
    main(["bench", "good", "--write"])
    main(["bench", "other", "--write"])
    assert set(json.loads((clone / "docs" / "benchmarks.json").read_text())) == {"good", "other"}


@pytest.mark.parametrize("code", ["raise SystemExit('no GPU')", '"""Q?"""\nprint("{")'])
def test_a_benchmark_that_fails_writes_nothing(clone, capsys, code):
    (clone / "benchmarks" / "bad.py").write_text(code)
    assert main(["bench", "--write"]) == 2
    assert "bad" in capsys.readouterr().err
    assert not (clone / "docs" / "benchmarks.json").exists()


def test_an_unknown_name_lists_the_known(clone, capsys):
    assert main(["bench", "speed"]) == 2
    assert "Known: good" in capsys.readouterr().err


def test_an_installed_package_says_where_benchmarks_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert main(["bench"]) == 2
    assert "clone the repository" in capsys.readouterr().err


@pytest.fixture(scope="session")
def root():
    return bench.ROOT
