"""Whole checkpoints are told from half-written ones, and a full disk is told before writing.

A `Trainer` writes into the folder that it will later resume from, the weights first and
`trainer_state.json` last. Whoever is killed in between leaves a folder that looks like a
checkpoint. What makes one whole is looked up in its files: safetensors state their own length,
torch's files end with a directory, and the state is written last; so checkpoints of the stock
`Trainer` are judged too. A *seal*, written after everything is on the disk, adds what no single
file knows: which files there were, of all ranks, and how long.
"""

import errno
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

SEAL = "complete.json"
STATE = "trainer_state.json"
# transformers' own sign of a checkpoint that it is writing on SIGTERM.
SENTINEL = "checkpoint-is-incomplete.txt"

_FOLDER = re.compile(r"checkpoint-(\d+)")
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
# Tokenizer, configuration, random states, scheduler: small beside any model. Our choice.
_SMALL_FILES = 32 * 2**20


def last_complete_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The newest whole checkpoint of a run's folder, or None if there is none.

    Newer ones that are not whole are left alone, and named in a warning with what is wrong.

    Args:
        folder: The run's `output_dir`; it need not exist.
    """
    for path in sorted(_checkpoints(folder), key=_step, reverse=True):
        if not (problems := checkpoint_problems(path)):
            return path
        logger.warning("Ignoring %s, which is not whole: %s.", path, "; ".join(problems))
    return None


def require_complete_checkpoint(path: str | os.PathLike) -> Path:
    """The path itself.

    Raises:
        ValueError: If it is no whole checkpoint; says what is wrong, and which one is whole.
    """
    path = Path(path)
    problems = checkpoint_problems(path)
    if problems:
        other = last_complete_checkpoint(path.parent)
        instead = f"The newest whole one beside it is {other}" if other else "None beside it is"
        raise ValueError(
            f"{path} is not a whole checkpoint: {'; '.join(problems)}. {instead}. A run that was "
            "killed while writing leaves such a folder; delete it or resume from another."
        )
    return path


def checkpoint_problems(path: str | os.PathLike) -> list[str]:
    """What keeps a folder from being a whole checkpoint; empty if it is one."""
    path = Path(path)
    if not path.is_dir():
        return ["there is no such folder"]
    problems = _state_problems(path) + _weight_problems(path)
    if (path / SENTINEL).exists():
        problems.append(f"{SENTINEL} says that it was being written")
    return problems + (_seal_problems(path) if (path / SEAL).exists() else _cut_off(path))


def break_seal(path: str | os.PathLike) -> None:
    """Make a folder that is about to be written over an unfinished one, if it exists.

    Old and new files mixed would look whole.
    """
    for name in (SEAL, STATE):
        (Path(path) / name).unlink(missing_ok=True)


def seal_checkpoint(path: str | os.PathLike) -> None:
    """Force all files of a checkpoint to the disk, then write down which they are."""
    path = Path(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != SEAL)
    for file in files:
        _sync(file)
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    draft = path / f"{SEAL}.draft"
    draft.write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
    _sync(draft)
    draft.replace(path / SEAL)
    _sync(path)


def checkpoint_bytes(model: nn.Module, optimizer: Any = None) -> int:
    """Bytes that a checkpoint takes on the disk: weights, optimizer state, and a little more.

    The state of an optimizer that has not stepped yet is unknown and counts as nothing.

    Args:
        model: The model.
        optimizer: A torch optimizer, or accelerate's wrapper of one.
    """
    weights = [*model.parameters(), *model.buffers()]
    state = getattr(optimizer, "state", None) or {}
    moments = [
        value
        for values in state.values()
        if isinstance(values, dict)
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    return _SMALL_FILES + _total_bytes(weights) + _total_bytes(moments)


def require_space(path: str | os.PathLike, *, needed: int) -> None:
    """Make sure that a checkpoint can be written.

    Args:
        path: The folder to write, which need not exist; what it holds already counts as free.
        needed: Bytes.

    Raises:
        OSError: (ENOSPC) if fewer bytes are free; nothing was written or deleted then.
    """
    free = free_bytes(path)
    if free < needed:
        raise disk_full(path, needed=needed, free=free)


def free_bytes(path: str | os.PathLike) -> int:
    """Bytes that can be written under a folder, which need not exist, replacing what is there."""
    path = Path(path).absolute()
    there = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free + there


def disk_full(path: str | os.PathLike, *, needed: int, free: int) -> OSError:
    """The error that names the folder, needed and free bytes, and what can be resumed from."""
    last = last_complete_checkpoint(Path(path).parent)
    kept = f"The last whole checkpoint is {last}" if last else "There is no whole checkpoint yet"
    return OSError(
        errno.ENOSPC,
        f"The checkpoint needs {needed:,} bytes, but {free:,} bytes are free. {kept}. Make room "
        "(save_total_limit keeps fewer checkpoints, save_only_model=True makes them smaller) and "
        "resume",
        os.fspath(path),
    )


def _checkpoints(folder: str | os.PathLike) -> list[Path]:
    folder = Path(folder)
    entries = folder.iterdir() if folder.is_dir() else ()
    return [path for path in entries if path.is_dir() and _FOLDER.fullmatch(path.name)]


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _state_problems(path: Path) -> list[str]:
    try:
        step = json.loads((path / STATE).read_text(encoding="utf-8"))["global_step"]
    except FileNotFoundError:
        return [f"{STATE}, which is written last, is missing"]
    except (ValueError, KeyError, TypeError):
        return [f"{STATE} is cut off"]
    if _FOLDER.fullmatch(path.name) and step != _step(path):
        return [f"{STATE} is of step {step}"]
    return []


def _weight_problems(path: Path) -> list[str]:
    """Missing weights; a folder within holds those that FSDP or DeepSpeed sharded."""
    for index in path.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError):
            return [f"{index.name} is cut off"]
        return [f"{name} is missing" for name in sorted(names) if not (path / name).exists()]
    whole = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin")
    sharded = ("pytorch_model_fsdp*", "global_step*")
    if any((path / name).exists() for name in whole) or any(
        any(path.glob(pattern)) for pattern in sharded
    ):
        return []
    return ["there are no weights in it"]


def _seal_problems(path: Path) -> list[str]:
    try:
        sizes = json.loads((path / SEAL).read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError):
        return [f"{SEAL} is damaged"]
    problems = []
    for name, size in sizes.items():
        file = path / name
        found = file.stat().st_size if file.exists() else None
        if found is None:
            problems.append(f"{name} is missing")
        elif found != size:
            problems.append(f"{name} has {found:,} bytes instead of {size:,}")
    return problems


def _cut_off(path: Path) -> list[str]:
    """Files of a checkpoint without a seal that end too early, by what they say themselves."""
    problems = []
    for file in sorted(path.rglob("*")):
        is_safe = file.suffix == ".safetensors"
        is_torch = file.suffix in _TORCH_SUFFIXES
        whole = _is_whole_safetensors(file) if is_safe else not is_torch or zipfile.is_zipfile(file)
        if not whole:
            problems.append(f"{file.relative_to(path).as_posix()} is cut off")
    return problems


def _is_whole_safetensors(file: Path) -> bool:
    """Whether a file is as long as its header says: 8 bytes of length, header, tensors."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = file.stat().st_size
        if size < 8 or length > size - 8:
            return False
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return False
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    return size == 8 + length + end


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _total_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
