"""Data in a file: which sources there are, and to which part of a recipe's mixture each belongs.

    {"sources": {
        "web":    {"path": "captions/*.tar", "part": "captions", "weight": 93},
        "vecap":  {"path": "vecap.parquet",  "part": "captions", "weight": 7},
        "pages":  {"path": "pages.jsonl",    "part": "interleaved", "images": "pages/"},
        "books":  {"path": "books/", "kind": "dataset", "part": "text"}
    }}

Paths are relative to the file. Without any `part`, the sources are mixed by their own weights.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mm1_hf.data import converters
from mm1_hf.data.chat_converters import from_llava, from_messages
from mm1_hf.data.errors import ErrorPolicy
from mm1_hf.data.sources import (
    Converter,
    DatasetSource,
    JsonlSource,
    ParquetSource,
    Source,
    TarSource,
)
from mm1_hf.training.names import require_known
from mm1_hf.training.recipe_files import read_json_object

CONVERTERS: dict[str, Converter] = {
    "from_caption": converters.from_caption,
    "from_llava": from_llava,
    "from_messages": from_messages,
    "from_mmc4": converters.from_mmc4,
    "from_obelics": converters.from_obelics,
    "from_record": converters.from_record,
    "from_text": converters.from_text,
    "from_webdataset": converters.from_webdataset,
}
KIND_OF_ENDING = {".tar": "tar", ".jsonl": "jsonl", ".parquet": "parquet"}
KINDS = (*KIND_OF_ENDING.values(), "dataset")
_SOURCE_KEYS = ("path", "kind", "part", "weight", "images", "converter", "options")


class NamedData(NamedTuple):
    """A source, the part of the mixture it belongs to, and its weight there, if they are given."""

    source: Source
    part: str | None
    weight: float | None


class DataDescription(NamedTuple):
    """What a data file says: its sources in order, and what happens to unusable files."""

    sources: list[NamedData]
    errors: ErrorPolicy


def load_data(path: str | os.PathLike, *, index_folder: str | os.PathLike) -> DataDescription:
    """Open the sources of a data file.

    Args:
        path: The file.
        index_folder: Where the indices of tar and JSON Lines files are kept.

    Raises:
        ValueError: If the file is no such JSON, has a key that it cannot have, or a source cannot
            be opened; names file and source.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"There is no data file {str(file)!r}. Write one, as JSON: "
            '{"sources": {"web": {"path": "captions/*.tar", "part": "captions"}}}.'
        )
    content = read_json_object(file)
    require_known(content, ("sources", "errors"), where=f"The data file {str(file)!r}")
    entries = content.get("sources")
    if not isinstance(entries, Mapping) or not entries:
        raise ValueError(
            f"The data file {str(file)!r} has {entries!r} as sources, but a name and a description "
            'for at least one is expected: {"web": {"path": "captions/*.tar"}}.'
        )
    sources = []
    for name, entry in entries.items():
        try:
            sources.append(_open(name, entry, folder=file.parent, index_folder=Path(index_folder)))
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"Source {name!r} of {str(file)!r}: {error}") from error
    return DataDescription(sources, _error_policy(content.get("errors", {}), file))


def _open(name: str, entry: Any, *, folder: Path, index_folder: Path) -> NamedData:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise ValueError(f'a description with a path is expected, {{"path": …}}, not {entry!r}.')
    require_known(entry, _SOURCE_KEYS, where="the description")
    settings: dict[str, Any] = {"name": name}
    if "converter" in entry:
        require_known([entry["converter"]], CONVERTERS, where="the converter")
        settings["converter"] = partial(CONVERTERS[entry["converter"]], **entry.get("options", {}))
    elif "options" in entry:
        raise ValueError(
            f"options are for a converter, and none is named. Add one of: {', '.join(CONVERTERS)}."
        )
    if "images" in entry:
        settings["images"] = _resolved(entry["images"], folder)
    path = _resolved(entry["path"], folder)
    kind = entry.get("kind") or KIND_OF_ENDING.get(path[path.rfind(".") :])
    if kind is None:
        raise ValueError(
            f"the ending of {entry['path']!r} does not tell what it is. Add a kind, one of: "
            f"{', '.join(KINDS)}."
        )
    require_known([kind], KINDS, where="the kind")
    return NamedData(
        _source(kind, path, settings, index_folder), entry.get("part"), entry.get("weight")
    )


def _source(kind: str, path: str, settings: dict[str, Any], index_folder: Path) -> Source:
    if kind == "parquet":
        return ParquetSource(path, **settings)
    if kind == "tar":
        return TarSource(path, index_folder=index_folder, **settings)
    if kind == "jsonl":
        return JsonlSource(path, index_folder=index_folder, **settings)
    import datasets  # slow to import, and only needed for this kind

    dataset = datasets.load_from_disk(path)
    return DatasetSource(dataset, **settings)  # pyright: ignore[reportArgumentType]


def _resolved(path: str, folder: Path) -> str:
    """A path as seen from the data file; URLs and absolute paths as they are."""
    return path if "://" in path else os.fspath(folder / path)


def _error_policy(entry: Any, file: Path) -> ErrorPolicy:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"The data file {str(file)!r} has {entry!r} as errors, but an object is expected, such "
            'as {"mode": "skip", "budget_per_source": 0.01}.'
        )
    require_known(entry, ("mode", "budget_per_source"), where=f"errors of {str(file)!r}")
    return ErrorPolicy(**entry)
