"""What a release holds: built as a user would build it, used where the source tree is not."""

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("build")
pytest.importorskip("hatchling")

PROGRAM = """
import importlib.metadata
import mm1_hf
from mm1_hf.cli import main
from mm1_hf.hub import travelling_files
from mm1_hf.presets import tiny

assert importlib.metadata.version("mm1-hf") == mm1_hf.__version__
assert travelling_files()
mm1_hf.MM1ForConditionalGeneration(tiny())
assert main(["bench"]) == 2  # benchmarks stay in the repository
print(mm1_hf.__file__)
"""


@pytest.fixture(scope="module")
def distributions(root, tmp_path_factory):
    """Folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root)]
    subprocess.run(command, check=True)
    return folder


def one(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def test_the_wheel_holds_the_package_and_nothing_else(distributions, root):
    with zipfile.ZipFile(one(distributions, "*.whl")) as wheel:
        names = set(wheel.namelist())
    source = {
        str(path.relative_to(root / "src"))
        for path in (root / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    }
    assert source - names == set(), "a file of the package is not in the wheel"
    extra = {name for name in names - source if ".dist-info/" not in name}
    assert extra == set(), "the wheel holds what is not of the package"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_can_be_tested_and_read(distributions):
    with tarfile.open(one(distributions, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names
    assert {"src/mm1_hf/py.typed", "tests/conftest.py", "docs/index.md"} <= names
    assert not any(name.startswith((".venv/", ".cache/", "runs/", "site/")) for name in names)


def test_the_wheel_works_without_the_source_tree(distributions, tmp_path):
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    wheel = one(distributions, "*.whl")
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith(str(target)), "the source tree was used"
