"""What importing the package costs and says."""

import os
import subprocess
import sys

import pytest

IMPORT_EVERYTHING = """
import importlib, pkgutil, mm1_hf
for module in pkgutil.walk_packages(mm1_hf.__path__, "mm1_hf."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("modules imported")
"""
# A fork per name after torch is loaded: a fresh start for the package at a fraction of the price.
FIRST_IMPORT = """
import os, traceback, torch, transformers, mm1_hf
for name in mm1_hf.__all__:
    if (child := os.fork()) == 0:
        try:
            getattr(mm1_hf, name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("FAILED", name, flush=True)
print("names tried", len(mm1_hf.__all__))
"""
LIST_MODULES = "import sys, mm1_hf; print('\\n'.join(sys.modules))"


def _python(code: str, root) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_the_package_loads_no_model_code(root):
    result = _python(LIST_MODULES, root)
    assert result.returncode == 0, result.stderr
    loaded = result.stdout.split()
    heavy = [
        name
        for name in loaded
        if name in {"torch", "transformers.modeling_utils", "transformers.generation.utils"}
        or (name.startswith("transformers.models.") and ".modeling_" in name)
        or name.startswith("mm1_hf.model.modeling")
    ]
    assert "mm1_hf" in loaded
    assert not heavy, f"`import mm1_hf` is for names only; it loaded {heavy}"


@pytest.mark.slow
def test_every_module_imports_in_silence(root):
    """auto_docstring prints `[ERROR]` for an undocumented argument instead of raising."""
    result = _python(IMPORT_EVERYTHING, root)
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "modules imported" in said, said
    assert "[ERROR]" not in said, said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_public_name_may_be_the_first_one_imported(root):
    """Registering with the Auto classes makes modules import each other: no order may matter."""
    result = _python(FIRST_IMPORT, root)
    assert result.returncode == 0 and "names tried" in result.stdout, result.stderr
    assert "FAILED" not in result.stdout, result.stdout + result.stderr


def test_no_source_asks_for_torchvision(package):
    asking = [
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.lstrip().startswith(("import torchvision", "from torchvision"))
    ]
    assert not asking, f"pixels must not depend on torchvision (decision 0003): {asking}"
