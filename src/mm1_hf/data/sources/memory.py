"""Documents that are at hand already."""

from collections.abc import Iterable

from mm1_hf.data.documents import Document
from mm1_hf.data.sources.contract import NamedSource, fingerprint


class MemorySource(NamedSource):
    """A list of documents as a source, for small sets and tests.

    Args:
        documents: The documents.
        name: Name of the source.
    """

    def __init__(self, documents: Iterable[Document], *, name: str):
        self._documents = tuple(documents)
        super().__init__(
            name=name, fingerprint=fingerprint(repr(d.to_row()) for d in self._documents)
        )

    def __len__(self) -> int:
        return len(self._documents)

    def _document(self, position: int) -> Document:
        return self._documents[position]
