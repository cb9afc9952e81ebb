"""Where a benchmark lies: a local folder or file, a data set of the Hub, or rows in memory.

A release that a benchmark's authors publish is described by `Release`: file names, and how their
rows are joined. Everything else is a table whose files are named by split, as on the Hub.
"""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mm1_hf.evaluation.contract import Example
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import TABLE_SUFFIXES, read_dataset, read_file

Location = Any
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.,-]+)?")


class Found(NamedTuple):
    """A file of a release.

    Attributes:
        path: The file.
        split: Of which split.
        root: The folder that was given.
    """

    path: Path
    split: str
    root: Path


@dataclass(frozen=True)
class Release:
    """How a benchmark's authors publish it.

    Attributes:
        files: Patterns of its files below the folder; `{split}` stands for the split. All files of
            the first pattern that matches are read.
        pictures: Folders of its pictures below the given one; `{split}` as above.
        rows: Reads the rows of one file, by default as `read_file` does.
        splits: The only splits it has; by default any.
    """

    files: tuple[str, ...]
    pictures: tuple[str, ...] = ("images", "")
    rows: Callable[[Found, Sequence[Path]], Sequence[Record]] | None = None
    splits: tuple[str, ...] = ()

    def find(self, folder: Path, splits: Sequence[str]) -> list[Found]:
        """Its files of the first split that has any."""
        for split in (one for one in splits if not self.splits or one in self.splits):
            for pattern in self.files:
                # A split or a file name is text, not a pattern.
                named = pattern.replace("{split}", glob.escape(split))
                if paths := sorted(folder.glob(named)):
                    return [Found(path, split, folder) for path in paths]
        return []

    def read(self, found: Found) -> Sequence[Record]:
        """The rows of one file."""
        named = [folder.replace("{split}", found.split) for folder in self.pictures]
        folders = [found.root / folder for folder in named]
        if self.rows is not None:
            return self.rows(found, folders)
        return read_file(found.path, folders=folders)


@dataclass(frozen=True)
class Reader:
    """Reads the examples of one benchmark; what `Task.read` is.

    Attributes:
        benchmark: Its name, for errors.
        example: Makes an example of a row.
        splits: Splits to look for where none is asked for, the usual one first.
        releases: How its authors publish it.
        prepare: Looks at all rows together before they become examples, such as to join pictures.
        configurations: Configurations of the Hub's data set where none is named; all are read, each
            one's split of the same name. In a local copy they are folders.
    """

    benchmark: str
    example: Callable[[Record], Example]
    splits: tuple[str, ...] = ("validation", "val", "test")
    releases: tuple[Release, ...] = ()
    prepare: Callable[[Sequence[Record]], Sequence[Record]] | None = None
    configurations: tuple[str, ...] = ()

    def __call__(self, location: Location, *, split: str | None = None) -> list[Example]:
        """Read the examples.

        Args:
            location: A folder, a file, a data set of the Hub as `owner/name` or
                `owner/name:configuration` (several parted by commas), a `datasets.Dataset`, or a
                list of rows.
            split: Which split; by default the first of `splits` that is there.

        Returns:
            One example for each row, in the order of the files. A row without answers is kept, for
            the evaluator to refuse or count.

        Raises:
            ValueError: If nothing of the benchmark is found, a row lacks what it needs, two rows
                have one key, or no row has an answer. Names the file and the row.
        """
        records = self._records(location, (split,) if split else self.splits)
        if self.prepare is not None:
            records = self.prepare(records)
        examples: list[Example] = []
        places: dict[str, str] = {}
        for number, record in enumerate(records):
            example = self.example(replace(record, number=number))
            if (other := places.setdefault(example.key, record.place)) != record.place:
                raise ValueError(
                    f"{record.place}: found the key {example.key!r} a second time (before: "
                    f"{other}), but answers are kept by key. Remove one of the rows, or read one "
                    "split at a time."
                )
            examples.append(example)
        if not examples:
            raise ValueError(
                f"There are no rows of {self.benchmark} at {location!r}. Check the split."
            )
        if not any(example.answers for example in examples):
            raise ValueError(
                f"{records[0].place}: found no answers, here or in any of {len(examples)} rows, "
                "but something to compare with is expected. The split may be one that "
                f"{self.benchmark} publishes without answers; name another."
            )
        return examples

    def _records(self, location: Location, splits: Sequence[str]) -> Sequence[Record]:
        if not isinstance(location, (str, os.PathLike)):
            return _in_memory(location, splits)
        path = Path(location).expanduser()
        if path.is_dir():
            return self._from_folder(path, splits)
        if path.is_file():
            return self._from_file(path, splits)
        if isinstance(location, str) and _HUB_NAME.fullmatch(location):
            return _from_hub(location, splits, configurations=self.configurations)
        raise ValueError(
            f"There is no file or folder {str(location)!r}, and it is no name of a data set of the "
            f"Hub (owner/name). Give the place of {self.benchmark}."
        )

    def _from_folder(self, folder: Path, splits: Sequence[str]) -> Sequence[Record]:
        for release in self.releases:
            if found := release.find(folder, splits):
                return [record for one in found for record in release.read(one)]
        parts = [folder / name for name in self.configurations if (folder / name).is_dir()]
        if files := [path for part in parts or [folder] for path in find_tables(part, splits)]:
            return [record for path in files for record in read_file(path, folders=[folder])]
        wanted = [pattern for release in self.releases for pattern in release.files]
        held = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())[:8]
        raise ValueError(
            f"No split {' or '.join(map(repr, splits))} of {self.benchmark} is found in "
            f"{str(folder)!r}, which holds {', '.join(held) or 'no files'}. Expected are files "
            f"named after the split ({', '.join(TABLE_SUFFIXES)})"
            + (f" or {', '.join(wanted)}" if wanted else "")
            + ". Name another split or folder."
        )

    def _from_file(self, path: Path, splits: Sequence[str]) -> Sequence[Record]:
        if path.suffix not in TABLE_SUFFIXES:
            raise ValueError(
                f"The file {str(path)!r} ends in {path.suffix!r}, but one of "
                f"{', '.join(TABLE_SUFFIXES)} is expected."
            )
        for folder in (path.parent, path.parent.parent):
            for release in self.releases:
                found = [one for split in splits for one in release.find(folder, [split])]
                if match := [one for one in found if one.path == path]:
                    return release.read(match[0])
        return read_file(path, folders=[path.parent / "images"])


def find_tables(folder: Path, splits: Sequence[str]) -> list[Path]:
    """Files of the first split that has any, by the Hub's names.

    A file belongs to a split if its name is the split's, or begins with it and then `-`, `_` or
    `.`, or if its folder has that name.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in TABLE_SUFFIXES)
    for split in splits:
        named = re.compile(rf"{re.escape(split)}(?:[-_.].*)?\.[a-z]+")
        if found := [p for p in files if named.fullmatch(p.name) or p.parent.name == split]:
            return found
    return []


def _in_memory(location: Location, splits: Sequence[str]) -> Sequence[Record]:
    if hasattr(location, "num_rows") and isinstance(location, Mapping):
        return read_dataset(_choose(location, splits, "the data sets given"), place="Data set")
    if hasattr(location, "with_format") and hasattr(location, "num_rows"):
        return read_dataset(location, place="Data set")
    if isinstance(location, Sequence) and all(isinstance(row, Mapping) for row in location):
        return [Record(row, place=f"Row {n}", number=n) for n, row in enumerate(location)]
    raise ValueError(
        f"The location is a {type(location).__name__}, but a path, the name of a data set, a "
        "datasets.Dataset, or a list of rows (mappings) is expected."
    )


def _choose(splits_held: Mapping[str, Any], splits: Sequence[str], where: str) -> Any:
    for split in splits:
        if split in splits_held:
            return splits_held[split]
    raise ValueError(
        f"There is no split {' or '.join(map(repr, splits))} in {where}, only "
        f"{', '.join(map(repr, splits_held))}. Name one of them."
    )


def _hub_splits(name: str, repository: str, configuration: str) -> list[str]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name!r} is no local path; a data set of the Hub needs `datasets`. Install "
            "mm1-hf[train], or check the path."
        ) from error
    try:
        return datasets.get_dataset_split_names(repository, configuration or None)
    except Exception as error:
        raise ValueError(
            f"{name!r} is neither a local path nor a data set of the Hub that can be read "
            f"({type(error).__name__}: {error}). Check the name, or add the configuration as "
            "owner/name:configuration."
        ) from error


def _from_hub(
    name: str, splits: Sequence[str], *, configurations: tuple[str, ...]
) -> Sequence[Record]:
    repository, _, chosen = name.partition(":")
    records: list[Record] = []
    for configuration in chosen.split(",") if chosen else configurations or ("",):
        known = _hub_splits(name, repository, configuration)
        split = _choose({one: one for one in known}, splits, f"the data set {name!r}")
        records += _load_from_hub(repository, configuration, split)
    return records


def _load_from_hub(repository: str, configuration: str, split: str) -> Sequence[Record]:
    import datasets

    dataset = datasets.load_dataset(repository, configuration or None, split=split)
    parts = ", ".join(filter(None, (configuration, split)))
    return read_dataset(dataset, place=f"Data set {repository!r} ({parts})")
