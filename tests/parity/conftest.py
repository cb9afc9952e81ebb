"""timm's RegStage as an independent reference, without torchvision.

timm imports torchvision for a handful of names that RegStage never touches, and torchvision is
never installed here. The fixture therefore lends timm an empty stand-in for exactly the length of
that one import, and keeps timm's two largest packages from importing every model they know.
"""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import nn

_BORROWED = ("timm", "torchvision")


class _StandIn(types.ModuleType):
    """A module in which every public name exists: it is imported, never used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


class _TorchvisionFinder:
    """Answers `import torchvision…` with stand-ins."""

    def find_spec(self, name: str, path=None, target=None):
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module):
        pass


def _borrowed_names() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in _BORROWED]


@contextmanager
def _torchvision_stand_in() -> Iterator[None]:
    before = {name: sys.modules.pop(name) for name in _borrowed_names()}
    finder = _TorchvisionFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _borrowed_names():
            del sys.modules[name]
        sys.modules.update(before)


def _bare_package(name: str) -> types.ModuleType:
    """Enter a package in `sys.modules` without running its `__init__`, which imports all models."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    package.__spec__ = spec
    sys.modules[name] = package
    return package


@pytest.fixture(scope="session")
def reg_stage() -> type[nn.Module]:
    """`timm.models.regnet.RegStage`, the stage Honeybee's C-Abstractor is built from.

    The channel norm of the original is `norm_layer="layernorm2d"`: timm resolves the name to its
    LayerNorm over channels with eps 1e-5.
    """
    with _torchvision_stand_in():
        _bare_package("timm").__version__ = importlib.metadata.version("timm")
        _bare_package("timm.models")
        data = _bare_package("timm.data")
        data.IMAGENET_DEFAULT_MEAN = data.IMAGENET_DEFAULT_STD = (0.0, 0.0, 0.0)
        return importlib.import_module("timm.models.regnet").RegStage
