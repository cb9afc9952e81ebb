"""`mm1 bench`: run the benchmarks of a clone of the repository, and write down what they find."""

import argparse
import ast
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[3]
_RESULTS = Path("docs") / "benchmarks.json"
_PAGE = Path("docs") / "benchmarks.md"
_NOT_A_QUESTION = {"harness", "packed_rows", "demo_figures"}
_PAGE_HEAD = """\
# Benchmarks

Each file of `benchmarks/` answers one question: ours and the peers take turns in one run, on one
CPU thread. A ratio says how many times better than the peer ours is, so more is better, unless its
question says otherwise. `mm1 bench --write` measured all of this and wrote this page.
"""


class Benchmark(NamedTuple):
    """A file that answers a question: its name, its path, and the question."""

    name: str
    path: Path
    question: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all; see --list")
    parser.add_argument("--quick", action="store_true", help="each in under a minute, less exact")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument(
        "--write", action="store_true", help=f"write {_RESULTS} and {_PAGE}, the page of the site"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run what was asked for, one after the other, and print a table of ratios."""
    benchmarks = find_benchmarks(ROOT / "benchmarks")
    if arguments.list:
        for benchmark in benchmarks:
            print(f"{benchmark.name:<12} {benchmark.question}")
        return
    chosen = _choose(benchmarks, arguments.names)
    results = {}
    for benchmark in chosen:
        print(f"{benchmark.name}: {benchmark.question}", file=sys.stderr, flush=True)
        results[benchmark.name] = measure(benchmark, quick=arguments.quick)
        print(ratio_table(results[benchmark.name]), flush=True)
    if arguments.write:
        print(f"Written: {write_results(ROOT, results, benchmarks)}")


def find_benchmarks(folder: Path) -> list[Benchmark]:
    """The benchmarks in a folder, by name.

    Raises:
        ValueError: If the folder is not there, as where only the package is installed.
    """
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {str(folder)!r}. Benchmarks are no part of the installed package: "
            "clone the repository and run `mm1 bench` from its environment (pip install -e .)."
        )
    found = []
    for path in sorted(folder.glob("*.py")):
        if path.stem not in _NOT_A_QUESTION:
            documented = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found.append(Benchmark(path.stem, path, documented.partition("\n")[0]))
    return found


def measure(benchmark: Benchmark, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark in a process of its own; returns the JSON object of its last line.

    Raises:
        ValueError: If it fails, or its last line is something else.
    """
    command = [sys.executable, str(benchmark.path), *(["--quick"] if quick else [])]
    process = subprocess.run(command, capture_output=True, text=True)
    lines = process.stdout.strip().splitlines()
    if process.returncode != 0 or not lines:
        raise ValueError(
            f"{benchmark.name} ended with status {process.returncode} and no result. Run "
            f"`python {benchmark.path}` to see why; the end of its error output:\n"
            f"{process.stderr[-2000:]}"
        )
    try:
        result = json.loads(lines[-1])
    except json.JSONDecodeError:
        raise ValueError(
            f"The last line of {benchmark.name} is {lines[-1][:80]!r}, but one JSON object is "
            "expected there (benchmarks/harness.py writes it)."
        ) from None
    return {**result, "quick": quick, "date": date.today().isoformat()}


def ratio_table(result: dict[str, Any]) -> str:
    """The ratios of one benchmark as a table in Markdown."""
    rows = [f"| {name} | {value:.3g} |" for name, value in result["ratios"].items()]
    return "\n".join(["| ratio | value |", "|---|---|", *rows])


def write_results(root: Path, results: dict[str, Any], benchmarks: list[Benchmark]) -> Path:
    """Add results to those that are kept, and write the page anew; returns the page."""
    kept = root / _RESULTS
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    names = {benchmark.name for benchmark in benchmarks}
    merged = {name: one for name, one in sorted({**before, **results}.items()) if name in names}
    kept.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    (root / _PAGE).write_text(render_page(merged, benchmarks), encoding="utf-8")
    return root / _PAGE


def render_page(results: dict[str, Any], benchmarks: list[Benchmark]) -> str:
    """The page of the documentation: questions, ratios, and on what they were measured."""
    parts = [_PAGE_HEAD]
    for benchmark in benchmarks:
        result = results.get(benchmark.name)
        if result is not None:
            parts += [f"## {benchmark.question}", _origin(benchmark, result), ratio_table(result)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _origin(benchmark: Benchmark, result: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    quick = " --quick" if result.get("quick") else ""
    return (
        f"`python benchmarks/{benchmark.name}.py{quick}`, {result.get('date')}; {machine}; "
        f"{versions}."
    )


def _choose(benchmarks: list[Benchmark], names: list[str]) -> list[Benchmark]:
    known = {benchmark.name: benchmark for benchmark in benchmarks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"There is no benchmark {', '.join(map(repr, unknown))}. Known: {', '.join(known)}."
        )
    return [known[name] for name in names] if names else benchmarks
