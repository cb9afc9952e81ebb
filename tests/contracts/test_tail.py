"""The tail of the size distribution, where unreadable code lives."""

import ast
from pathlib import Path

MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 80
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}
PYTHON_FOLDERS = {"src", "tests", "examples", "benchmarks"}


def _python_files(project_files: list[Path]) -> list[Path]:
    found = [p for p in project_files if p.suffix == ".py" and p.parts[0] in PYTHON_FOLDERS]
    assert found, "no Python file was found: this test would pass for the wrong reason"
    return found


def test_no_file_is_too_long(root, project_files):
    lengths = {
        str(path): len((root / path).read_text(encoding="utf-8").splitlines())
        for path in _python_files(project_files)
    }
    too_long = {path: n for path, n in lengths.items() if n > MOST_LINES_OF_A_FILE}
    assert not too_long, f"split by what the parts are: {too_long}"


def test_no_function_is_too_long(root, project_files):
    too_long = {}
    for path in _python_files(project_files):
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    too_long[f"{path}:{node.lineno} {node.name}"] = lines
    assert not too_long, f"a function does one thing: {too_long}"


def test_every_file_is_named_after_what_it_is(project_files):
    empty = [str(p) for p in project_files if p.stem.lower() in NAMES_THAT_SAY_NOTHING]
    assert not empty, f"name a file after its content: {empty}"
