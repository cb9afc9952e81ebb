"""Every block of code in the documentation runs, and prints what the page says it prints.

The blocks of a page run in order and share their names. What a page takes for granted (a model, a
picture) comes from `scene.py`. A block that cannot run on a machine without network and accelerator
says why, in a comment before it that readers do not see; its syntax and its imports are checked.
"""

import ast
import builtins
import contextlib
import importlib
import io
import json
import shlex
import warnings
from pathlib import Path

import pytest

from mm1_hf.cli import VERBS, build_parser

from .pages import Block, blocks, pages
from .scene import Scene

PAGES = pages()
RUN = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.fixture(scope="module")
def scene(tmp_path_factory, make_tokenizer) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"), make_tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=str)
def test_python_on_a_page_runs(page, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__page__"}
    printed = ""
    for block in blocks(page):
        if block.language == "python" and not block.not_run:
            _provide(block, names, scene, tmp_path)
            printed = _run(block, names)
        elif block.is_output:
            assert block.code.strip() == printed.strip(), f"{block.place} does not show the output"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_is_not_run_on_a_page_is_sound(page):
    for block in blocks(page):
        if block.language == "python":
            _check_python(block)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "bash":
            _check_commands(block)


def _provide(block: Block, names: dict, scene: Scene, folder: Path) -> None:
    """Put what the block takes for granted into its names and its folder."""
    scene.place_files(block.code, folder)
    tree = ast.parse(block.code)
    own = {node.id for node in ast.walk(tree) if _is_name(node, ast.Store)}
    for node in ast.walk(tree):
        if not _is_name(node, ast.Load) or node.id in names or hasattr(builtins, node.id):
            continue
        if scene.knows(node.id):
            names[node.id] = scene.make(node.id)
        else:
            is_own = node.id in own or _is_bound_elsewhere(tree, node.id)
            assert is_own, f"{block.place}: nothing provides the name {node.id!r}"


def _is_name(node: ast.AST, context: type) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, context)


def _is_bound_elsewhere(tree: ast.AST, name: str) -> bool:
    """Whether an import, a definition or an argument binds the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and (node.asname or node.name.split(".")[0]) == name:
            return True
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.arg) and node.arg == name:
            return True
    return False


def _run(block: Block, names: dict) -> str:
    code = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
    output = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(output):
        warnings.simplefilter("default")
        exec(compile(code, block.page, "exec"), names)
    return output.getvalue()


def _check_python(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code, block.place)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mm1_hf"):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not _has(module, alias.name)]
            assert not missing, f"{block.place}: {node.module} has no {missing}"


def _has(module, name: str) -> bool:
    if hasattr(module, name):
        return True
    return importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def _check_commands(block: Block) -> None:
    """Every `mm1 …` in the block is a verb with options that exist."""
    joined = block.code.replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if word == "mm1" and (place == 0 or words[place - 1] in {"--no-python", "&&"}):
                command = [w for w in words[place + 1 :]]
                if command[:1] == ["--help"] or not command:
                    continue
                assert command[0] in VERBS, f"{block.place}: there is no verb {command[0]!r}"
                try:
                    build_parser(command).parse_args(command)
                except SystemExit:
                    pytest.fail(f"{block.place}: mm1 does not take {shlex.join(command)}")
