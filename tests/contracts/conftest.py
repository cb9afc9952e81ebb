import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def package(root: Path) -> Path:
    return root / "src" / "mm1_hf"


@pytest.fixture(scope="session")
def sources(package: Path) -> dict[Path, ast.Module]:
    """Every Python file of the package, parsed; the paths are relative to the package."""
    return {
        path.relative_to(package): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(package.rglob("*.py"))
    }


@pytest.fixture(scope="session")
def project_files(root: Path) -> list[Path]:
    """What git tracks or would track, relative to the root: the project as others get it."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [Path(name) for name in sorted(set(listing.split("\0"))) if (root / name).is_file()]


@pytest.fixture(scope="session")
def dotted_name():
    return _dotted_name


def _dotted_name(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, or the empty string."""
    return ".".join(reversed(list(_parts(node))))


def _parts(node: ast.AST) -> Iterator[str]:
    while isinstance(node, ast.Attribute):
        yield node.attr
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
