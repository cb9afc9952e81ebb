"""Documents out of a `datasets.Dataset`."""

from typing import TYPE_CHECKING, cast

import pyarrow as pa

from mm1_hf.data.converters import from_record
from mm1_hf.data.documents import Document
from mm1_hf.data.rows import ImageLookup
from mm1_hf.data.sources.contract import (
    Converter,
    NamedSource,
    describe_converter,
    fingerprint,
)

if TYPE_CHECKING:
    import datasets


class DatasetSource(NamedSource):
    """Rows of a map-style `datasets.Dataset`, which reads its Arrow files by index.

    Images stay encoded, whatever the features say: rows are read in Arrow's form.

    Args:
        dataset: The dataset. A streamed one has no index: read its parquet files with
            `ParquetSource("hf://datasets/…")`, or load it without `streaming=True`.
        name: Name of the source.
        converter: Makes a document of a row; by default the row's fields tell its format.
        images: Where images that rows name are found.

    Raises:
        ValueError: If the dataset has no random access.
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        *,
        name: str,
        converter: Converter = from_record,
        images: ImageLookup = None,
    ):
        if not hasattr(dataset, "with_format") or not hasattr(dataset, "num_rows"):
            raise ValueError(
                f"Source {name!r} is given a {type(dataset).__name__}, but a datasets.Dataset, "
                "which can be read by index, is expected. Take one split, load it without "
                "streaming=True, or read its parquet files with ParquetSource('hf://datasets/…')."
            )
        if isinstance(dataset, dict):
            raise ValueError(
                f"Source {name!r} is given the splits {', '.join(map(repr, dataset))}, but one "
                "datasets.Dataset is expected. Choose a split."
            )
        self._rows = dataset.with_format("arrow")
        self._converter = converter
        self._images = images
        super().__init__(
            name=name,
            fingerprint=fingerprint(
                [
                    type(self).__name__,
                    dataset._fingerprint,
                    dataset.num_rows,
                    describe_converter(converter, images),
                ]
            ),
        )

    def __len__(self) -> int:
        return self._rows.num_rows

    def _document(self, position: int) -> Document:
        table = cast(pa.Table, self._rows[position])
        (row,) = table.to_pylist()
        return self._converter(
            row, source=self._name, key=f"{self._name}#{position}", images=self._images
        )
