"""Tables of rows: parquet, JSON, JSON lines, TSV and CSV files, and `datasets` in memory.

Texts are read at once; pictures stay where they are until they are asked for.
"""

import bisect
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_hf.evaluation.records import Record, StoredPicture

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE_SUFFIXES = (".parquet", ".jsonl", ".json", ".tsv", ".csv")

# Under which a JSON object of a benchmark holds its rows.
_ROW_LISTS = ("data", "questions", "annotations", "images", "rows")


def read_file(path: Path, *, folders: Sequence[Path] = ()) -> list[Record]:
    """All rows of a file; the suffix tells its kind.

    JSON may be a list of rows, an object that holds such a list (under `data`, `questions`,
    `annotations`, `images` or `rows`), or an object of rows by their names, which become the field
    `id`. A file that ends in `.json` may also hold one row a line.

    Args:
        path: The file.
        folders: Where paths of pictures may start; the file's own folder is the last.

    Raises:
        ValueError: If it cannot be read as what its suffix says; names file and line.
    """
    folders = (*folders, path.parent)
    if path.suffix == ".parquet":
        return read_parquet(path, folders=folders)
    rows = {".tsv": partial(_delimited, sign="\t"), ".csv": partial(_delimited, sign=",")}.get(
        path.suffix, read_json_rows
    )(path)
    return [
        Record(row, place=f"File {str(path)!r}, row {number}", folders=folders, number=number)
        for number, row in enumerate(rows)
    ]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"File {str(path)!r} cannot be read as JSON ({error}). Restore it from its source."
        ) from None


def read_json_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a JSON or JSON-lines file; see `read_file`.

    Raises:
        ValueError: If it is neither, or an entry is no object.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl" or _is_json(text.lstrip().partition("\n")[0]):
        content = list(_lines(path, text))
        # A whole file may be one line.
        if path.suffix != ".jsonl" and len(content) == 1:
            content = content[0]
    else:
        content = read_json(path)
    rows = _unwrap(content)
    if rows is None:
        raise ValueError(
            f"File {str(path)!r} holds a JSON {type(content).__name__} without rows, but a list of "
            f"rows, an object with one of {', '.join(_ROW_LISTS)}, or rows by name are expected."
        )
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"File {str(path)!r}, row {number}: found a {type(row).__name__}, but an object of "
                "field names and values is expected."
            )
    return rows


def read_parquet(path: Path, *, folders: Sequence[Path] = ()) -> list[Record]:
    """All rows of a parquet file, its pictures by name.

    Raises:
        ValueError: If it is not parquet, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(
            f"File {str(path)!r} is parquet, which needs pyarrow. Install mm1-hf[train]."
        ) from error
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"File {str(path)!r} cannot be read as parquet ({error}). Restore it from its source."
        ) from None
    stored = [name for name in schema.names if _holds_pictures(schema.field(name).type)]
    texts = file.read(columns=[name for name in schema.names if name not in stored]).to_pylist()
    shapes = {name: _parquet_shape(file, name) for name in stored}
    groups = _RowGroups(file, path)
    rows = _rows(texts, shapes, count=file.metadata.num_rows, cell=groups.cell)
    return [
        Record(row, place=f"File {str(path)!r}, row {n}", folders=tuple(folders), number=n)
        for n, row in enumerate(rows)
    ]


def read_dataset(dataset: "datasets.Dataset", *, place: str) -> list[Record]:
    """All rows of a `datasets.Dataset`, its pictures by row.

    Args:
        dataset: The data set.
        place: Names it in errors.
    """
    rows: Any = dataset.with_format("arrow")
    features = rows.features.arrow_schema
    stored = [name for name in features.names if _holds_pictures(features.field(name).type)]
    others = [name for name in features.names if name not in stored]
    texts = rows.select_columns(others)[:].to_pylist() if others else []
    shapes = {name: _shape(rows.select_columns([name])[:].column(name)) for name in stored}

    def cell(row: int, column: str) -> Any:
        return rows[row].column(column)[0].as_py()

    made = _rows(texts, shapes, count=rows.num_rows, cell=cell)
    return [Record(row, place=f"{place}, row {n}", number=n) for n, row in enumerate(made)]


def _rows(
    texts: list[dict[str, Any]],
    shapes: Mapping[str, list[int | None]],
    *,
    count: int,
    cell: Callable[[int, str], Any],
) -> list[dict[str, Any]]:
    rows = texts or [{} for _ in range(count)]
    for name, lengths in shapes.items():
        for number, length in enumerate(lengths):
            load = partial(cell, number, name)
            if length is None:
                rows[number][name] = None
            elif length == -1:
                rows[number][name] = StoredPicture(load)
            else:
                rows[number][name] = [StoredPicture(partial(_nth, load, i)) for i in range(length)]
    return rows


def _nth(load: Callable[[], Any], index: int) -> Any:
    return load()[index]


class _RowGroups:
    """Cells of one parquet file; the row group that was decoded last is kept, column by column."""

    def __init__(self, file: "pq.ParquetFile", path: Path):
        self._path = path
        sizes = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        self._starts = list(itertools.accumulate(sizes, initial=0))[:-1]
        self._held: tuple[int, str, Any] | None = None

    def cell(self, row: int, column: str) -> Any:
        import pyarrow.parquet as pq

        group = bisect.bisect_right(self._starts, row) - 1
        if self._held is None or self._held[:2] != (group, column):
            file = pq.ParquetFile(self._path)
            table = file.read_row_group(group, columns=[column], use_threads=False)
            self._held = (group, column, table.column(column))
        return self._held[2][row - self._starts[group]].as_py()


def _holds_pictures(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_pictures(kind.value_type)  # pyright: ignore[reportAttributeAccessIssue]
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return set(names) == {"bytes", "path"}
    return types.is_binary(kind) or types.is_large_binary(kind)


def _parquet_shape(file: "pq.ParquetFile", name: str) -> list[int | None]:
    """How many pictures each row has, without a look at their bytes where the file allows it."""
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    paths = [leaf for leaf in leaves if leaf.startswith(f"{name}.") and leaf.endswith(".path")]
    shapes: list[int | None] = []
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=paths or [name], use_threads=False)
        shapes += _shape(table.column(name))
    return shapes


def _shape(column: "pa.ChunkedArray") -> list[int | None]:
    """For every row None for nothing, -1 for one picture, or the length of a list."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_list(column.type) or types.is_large_list(column.type):
        return pc.list_value_length(column).to_pylist()  # pyright: ignore
    return [None if missing else -1 for missing in column.is_null().to_pylist()]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _lines(path: Path, text: str) -> Iterator[Any]:
    # Not splitlines(): JSON strings may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"File {str(path)!r}, line {number}: found no JSON ({error}), but one row a "
                    "line is expected."
                ) from None


def _unwrap(content: Any) -> list[Any] | None:
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping):
        return None
    for name in _ROW_LISTS:
        if isinstance(content.get(name), list):
            return content[name]
    if content and all(isinstance(row, Mapping) for row in content.values()):
        return [{"id": name, **row} for name, row in content.items()]
    return None


def _delimited(path: Path, *, sign: str) -> list[Mapping[str, Any]]:
    # A cell may hold a picture as base64 text, far above the default limit of 128 KiB.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=sign)
        rows: list[Mapping[str, Any]] = []
        for number, row in enumerate(reader):
            if None in row or None in row.values():
                raise ValueError(
                    f"File {str(path)!r}, row {number}: found {len(row)} cells that do not match "
                    f"the {len(reader.fieldnames or ())} columns of the first line. Restore it."
                )
            rows.append({name: value if value != "" else None for name, value in row.items()})
    return rows
