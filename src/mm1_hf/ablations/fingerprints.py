"""Settings as plain data, and their fingerprint: equal settings have equal ones, on any machine."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

_LENGTH = 12


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses become objects that also hold their class's name.

    Raises:
        ValueError: If something in it cannot be written down so that it is the same in every run.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no infinity, and a number that is not one equals nothing, not even itself.
        if math.isnan(value):
            raise ValueError("A setting is NaN, which equals nothing. Use None for what is unset.")
        if value.is_integer():
            return int(value)  # 45 and 45.0 are equal, so they must look the same
        return value if math.isfinite(value) else repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        content = {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
        return {"is": type(value).__name__, **content}
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    raise ValueError(
        f"A setting is a {type(value).__name__}, {value!r}, which cannot be compared between runs. "
        "Settings are numbers, texts, paths, enums, mappings, sequences and dataclasses of these; "
        "let the run build everything else from them."
    )


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits that tell settings apart.

    Raises:
        ValueError: See `plain`.
    """
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
