"""Files in model/ are copied next to published weights and run where mm1_hf is not installed.

transformers finds what to copy with a regular expression over the text, and checks what must be
installed by walking the syntax tree. These rules keep both of them right.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

# transformers itself requires tokenizers, so it is there wherever the model loads.
THIRD_PARTIES = {"torch", "transformers", "tokenizers", "huggingface_hub", "numpy", "PIL"}
STEM = re.compile(r"^[a-z_]+_mm1$")
# Used where they are installed, each inside of `try`, which is where transformers does not ask.
OPTIONAL = {"simplejpeg"}
# What transformers' scanner takes for a relative import, wherever it stands.
LOOKS_RELATIVE = re.compile(r"^\s*(?:from|import)\s+\.")


@pytest.fixture(scope="module")
def travellers(package: Path, sources) -> dict[Path, ast.Module]:
    found = {path: tree for path, tree in sources.items() if path.parts[0] == "model"}
    assert len(found) > 1, "model/ is empty: this test would pass for the wrong reason"
    return found


def _imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_the_folder_is_flat_and_every_stem_carries_the_mark(travellers):
    strays = [
        str(path)
        for path in travellers
        if len(path.parts) != 2 or not (STEM.match(path.stem) or path.stem == "__init__")
    ]
    assert not strays, f"a traveller is model/<what it is>_mm1.py, found {strays}"


def test_travellers_import_each_other_only_by_file_and_name(travellers, package):
    wrong = []
    for path, tree in travellers.items():
        for node in _imports(tree):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            stem = node.module or ""
            if (
                node.level != 1
                or not STEM.match(stem)
                or not (package / "model" / f"{stem}.py").exists()
            ):
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
            if any(alias.name == "*" for alias in node.names):
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, f"only `from .stem_mm1 import name` survives the journey: {wrong}"


def test_travellers_need_only_what_every_reader_of_a_checkpoint_has(travellers):
    allowed = THIRD_PARTIES | OPTIONAL | set(sys.stdlib_module_names)
    foreign = []
    for path, tree in travellers.items():
        for node in _imports(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if node.level == 0 else []
            foreign += [
                f"{path}:{node.lineno} {n}" for n in names if n.split(".")[0] not in allowed
            ]
    assert not foreign, f"allowed are {sorted(THIRD_PARTIES)} and the standard library: {foreign}"


def test_what_is_optional_is_imported_inside_of_try(travellers):
    tried, found = set(), set()
    for tree in travellers.values():
        for node in ast.walk(tree):
            imports = node.body if isinstance(node, ast.Try) else []
            tried |= {a.name for n in imports if isinstance(n, ast.Import) for a in n.names}
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name in OPTIONAL}
    assert found <= tried, f"these would be required of every reader: {found - tried}"


def test_nothing_but_an_import_looks_like_a_relative_import(travellers, package):
    wrong = []
    for path, tree in travellers.items():
        real = {n.lineno for n in _imports(tree) if isinstance(n, ast.ImportFrom) and n.level}
        text = (package / path).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if LOOKS_RELATIVE.match(line) and number not in real:
                wrong.append(f"{path}:{number} {line.strip()}")
    assert not wrong, f"the scanner would look for a file of that name: {wrong}"


def test_above_the_model_no_class_is_asked_for_by_identity(sources, dotted_name):
    """A class loaded from the Hub is another class; ask `model.config` instead."""
    asked = []
    for path, tree in sources.items():
        if path.parts[0] == "model":
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and dotted_name(node.func) == "isinstance"):
                continue
            names = {dotted_name(n).rpartition(".")[2] for n in ast.walk(node.args[1])}
            if any(name.startswith("MM1") for name in names):
                asked.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert not asked, f"use model.config and attribute names: {asked}"


def test_registration_has_one_place(sources, dotted_name):
    elsewhere = []
    for path, tree in sources.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            owner, _, called = dotted_name(node.func).rpartition(".")
            remote = called == "register_for_auto_class" and path != Path("hub/publish.py")
            auto = called == "register" and owner.rpartition(".")[2].startswith("Auto")
            if remote or (auto and path != Path("registration.py")):
                elsewhere.append(f"{path}:{node.lineno} {ast.unparse(node.func)}")
    assert not elsewhere, f"Auto classes: registration.py; remote code: hub/publish.py: {elsewhere}"
