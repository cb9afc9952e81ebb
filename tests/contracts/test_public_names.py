import importlib
import importlib.metadata
import inspect
import re

import pytest

import mm1_hf


@pytest.mark.parametrize("name", sorted(mm1_hf.__all__))
def test_every_public_name_can_be_imported_and_says_what_it_is(name):
    value = getattr(mm1_hf, name)
    if name == "__version__":
        return
    documented = inspect.getdoc(value) or ""
    # A dataclass without a docstring gets its own signature for one.
    assert documented and not documented.startswith(f"{name}("), f"{name} has no docstring"


def test_public_names_are_seen_by_dir():
    assert set(mm1_hf.__all__) <= set(dir(mm1_hf))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="MM1Nonsense"):
        _ = mm1_hf.MM1Nonsense


def test_version_has_one_value(root):
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.search(r'^version = "(.+)"$', project, flags=re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert stated and cited
    assert mm1_hf.__version__ == stated[1] == cited[1]


def test_the_installed_metadata_agree_with_the_source():
    try:
        installed = importlib.metadata.version("mm1-hf")
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == mm1_hf.__version__, "installed from an older state: install again"


def test_every_part_of_the_model_has_a_page_in_the_reference(root, package):
    pages = "\n".join(p.read_text() for p in (root / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: ([\w.]+)", pages, flags=re.MULTILINE))
    parts = {f"mm1_hf.model.{p.stem}" for p in (package / "model").glob("*_mm1.py")}
    undocumented = sorted(
        p for p in parts if not any(s == p or s.startswith(p + ".") for s in shown)
    )
    assert not undocumented, f"docs/reference/ has no '::: …' for {undocumented}"


def _packages(package):
    """Modules of the project that may say what is public in them."""
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "__all__" in file.read_text(encoding="utf-8") and name != "mm1_hf":
            yield name


def test_every_public_name_of_every_package_says_what_it_is(package):
    silent = []
    for name in _packages(package):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isroutine(value):
                documented = inspect.getdoc(value) or ""
                if not documented or documented.startswith(f"{public}("):
                    silent.append(f"{name}.{public}")
    assert silent == []
