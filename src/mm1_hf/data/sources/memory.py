"""Documents that are at hand already."""

from collections.abc import Iterable
from typing import SupportsIndex

from mm1_hf.data.documents import Document
from mm1_hf.data.sources.contract import fingerprint, require_index


class MemorySource:
    """A list of documents as a source, for small sets and tests.

    Args:
        documents: The documents.
        name: Name of the source.
    """

    def __init__(self, documents: Iterable[Document], *, name: str):
        self._documents = tuple(documents)
        self._name = name
        self._fingerprint = fingerprint(repr(d.to_row()) for d in self._documents)

    @property
    def name(self) -> str:
        """Names the source in mixtures, counts, logs and errors."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Changes with the content of the documents."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: SupportsIndex, /) -> Document:
        return self._documents[require_index(index, length=len(self._documents), name=self._name)]

    def __repr__(self) -> str:
        return f"MemorySource(name={self._name!r}, documents={len(self)})"
