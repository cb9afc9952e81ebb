"""Where weights come from: a folder, a file, the Hub, or a model in memory."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, PreTrainedModel

from mm1_hf.conversion.checkpoints import Checkpoint, FileCheckpoint, MemoryCheckpoint
from mm1_hf.conversion.renaming import TensorInfo

# What the target did not use; it is needed on the way back only.
UNUSED_FILE = "unused.safetensors"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NEEDED_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


class Source(Protocol):
    """A model to convert: its weights and what is written about it."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def config(self) -> Any:
        """Its configuration, as transformers reads it."""
        ...

    @property
    def checkpoint(self) -> Checkpoint:
        """Its weights."""
        ...

    @property
    def unused(self) -> Mapping[str, TensorInfo]:
        """What an earlier conversion set aside."""
        ...

    def json(self, name: str) -> dict[str, Any] | None:
        """One of its JSON files, or None if it has none of that name."""
        ...


class FolderSource:
    """A folder in transformers' or open_clip's layout, or one file of it.

    Args:
        path: The folder, or a safetensors file in it.
        name: What to call it in messages.
    """

    def __init__(self, path: Path, *, name: str):
        self.name = name
        self.folder = path if path.is_dir() else path.parent
        self._file = None if path.is_dir() else path
        self._stem = "model"
        self._texts: dict[str, dict[str, Any] | None] = {}

    @functools.cached_property
    def config(self) -> Any:
        """Its configuration, as transformers reads it."""
        if self.json("config.json") is None:
            raise ValueError(
                f"{self.name!r} has no config.json, which says what the weights are. Put it beside "
                "them."
            )
        return AutoConfig.from_pretrained(self.folder)

    def prefer(self, stem: str) -> None:
        """Take the weight files of this name, where a folder has several."""
        self._stem = stem
        self.__dict__.pop("_checkpoint", None)

    @property
    def checkpoint(self) -> FileCheckpoint:
        """Its weights, and what an earlier conversion set aside."""
        return self._checkpoint

    @property
    def unused(self) -> dict[str, TensorInfo]:
        """What an earlier conversion set aside."""
        return self._unused

    def json(self, name: str) -> dict[str, Any] | None:
        """One of its JSON files, or None if it has none of that name."""
        if name not in self._texts:
            path = self.folder / name
            self._texts[name] = json.loads(path.read_text("utf-8")) if path.is_file() else None
        return self._texts[name]

    @functools.cached_property
    def _checkpoint(self) -> FileCheckpoint:
        return FileCheckpoint([*self._weight_files(), *self._unused_files()])

    @functools.cached_property
    def _unused(self) -> dict[str, TensorInfo]:
        return FileCheckpoint(self._unused_files()).tensors

    def _unused_files(self) -> list[Path]:
        path = self.folder / UNUSED_FILE
        return [path] if path.is_file() and path != self._file else []

    def _weight_files(self) -> list[Path]:
        if self._file is not None:
            return [self._file]
        preferred = self.folder / f"{self._stem}.safetensors"
        if preferred.is_file():
            return [preferred]
        indices = sorted(self.folder.glob("*.safetensors.index.json"))
        indices.sort(key=lambda path: path.name != f"{preferred.name}.index.json")
        for index in indices:
            named = set((self.json(index.name) or {})["weight_map"].values())
            if missing := sorted(name for name in named if not (self.folder / name).is_file()):
                raise ValueError(
                    f"{self.name!r} lacks {', '.join(missing)}, which {index.name} names. Fetch "
                    "the missing files."
                )
            return [self.folder / name for name in sorted(named)]
        found = sorted(set(self.folder.glob("*.safetensors")) - set(self._unused_files()))
        if len(found) == 1:
            return found
        if found:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{self.name!r} has several weight files ({names}): name one of them.")
        pickles = sorted(path for path in self.folder.iterdir() if path.suffix in _PICKLES)
        raise ValueError(_refusal(self.name, pickles[0].name if pickles else None))


class ModelSource:
    """A model in memory.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel):
        self.name = type(model).__name__
        self.config: Any = model.config
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        state_dict = model.state_dict()
        self.checkpoint: Checkpoint = MemoryCheckpoint(
            {name: tensor for name, tensor in state_dict.items() if name not in tied}
        )
        self.unused: Mapping[str, TensorInfo] = {}

    def json(self, name: str) -> None:
        """A model in memory has no files."""


def open_source(source: str | Path) -> FolderSource:
    """Find a folder, a safetensors file or a Hub id, which is downloaded.

    Raises:
        ValueError: If there is nothing of that name, or it is a pickle.
    """
    path = Path(source)
    if path.is_dir():
        return FolderSource(path, name=str(source))
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(_refusal(str(source), path.name))
        return FolderSource(path, name=str(source))
    if not _HUB_ID.fullmatch(str(source)) or path.parent.is_dir():
        raise ValueError(
            f"There is no folder or file {str(source)!r}. Give a folder with safetensors files, "
            "one such file, or a Hub id such as owner/name or owner/name@revision."
        )
    from huggingface_hub import snapshot_download

    repository, _, revision = str(source).partition("@")
    folder = snapshot_download(repository, revision=revision or None, allow_patterns=_NEEDED_FILES)
    return FolderSource(Path(folder), name=str(source))


def common_dtype(tensors: Mapping[str, TensorInfo]) -> torch.dtype | None:
    """The narrowest dtype that holds all floating-point tensors, or None without any."""
    dtypes = {info.dtype for info in tensors.values() if info.dtype.is_floating_point}
    return functools.reduce(torch.promote_types, dtypes) if dtypes else None


def _refusal(name: str, pickle: str | None) -> str:
    found = f"{pickle} is a pickle" if pickle else "there are no safetensors files"
    return (
        f"{name!r} cannot be read: {found}. Only safetensors are read, since opening a pickle may "
        "run code. For one you trust: weights = torch.load(file, map_location='cpu', "
        "weights_only=True), then safetensors.torch.save_file(weights, 'model.safetensors'), with "
        "its config.json beside it."
    )
