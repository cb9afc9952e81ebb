"""What every source is, and the fingerprint that says whether it is still the same."""

import hashlib
import inspect
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, SupportsIndex, runtime_checkable

from mm1_hf.data.converters import CONVERTERS_VERSION
from mm1_hf.data.documents import Document
from mm1_hf.data.rows import ImageLookup


@runtime_checkable
class Source(Protocol):
    """Documents of one origin, by index.

    A source can be pickled at the price of its file names, opens files when it needs them, and does
    so anew in every process.
    """

    @property
    def name(self) -> str:
        """Names the source in mixtures, counts, logs and errors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the files, or the way they become documents, change."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Document: ...


class NamedSource(ABC):
    """What the sources of this library share: name, fingerprint, and documents by checked index.

    Args:
        name: Name of the source.
        fingerprint: Of everything that decides which documents there are.
    """

    def __init__(self, *, name: str, fingerprint: str):
        self._name = name
        self._fingerprint = fingerprint

    @property
    def name(self) -> str:
        """Names the source in mixtures, counts, logs and errors."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Changes when the files, or the way they become documents, change."""
        return self._fingerprint

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _document(self, position: int) -> Document:
        """The document at a position from 0."""

    def __getitem__(self, index: SupportsIndex, /) -> Document:
        return self._document(require_index(index, length=len(self), name=self._name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self._name!r}, documents={len(self)})"


class Converter(Protocol):
    """Makes a document of a row: every `from_…` of the converters, or a function of yours.

    `key` is to be used where the row has none; `images` is what the source was given to find images
    with. A function of yours may take `**_` for what it does not need.
    """

    def __call__(
        self, row: Mapping[str, Any], /, *, source: str, key: str, images: ImageLookup
    ) -> Document:
        """Return the document of `row`."""
        ...


def fingerprint(parts: Iterable[object]) -> str:
    """A short name for what `parts` write as text: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = str(part).encode()
        # Lengths, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()


def describe_converter(converter: Callable[..., Document], images: ImageLookup) -> str:
    """A text that changes when a converter, its options or its place for images change.

    Converters of this library count by name and version; other functions by their source text.
    """
    if isinstance(converter, partial):
        if "images" in converter.keywords:
            raise ValueError(
                "The converter is a partial that binds images=, but a source passes its own. Give "
                "images= to the source."
            )
        options = [repr(converter.args), repr(sorted(converter.keywords.items()))]
        return "|".join([describe_converter(converter.func, images), *options])
    function = converter if inspect.isroutine(converter) else type(converter)
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__.startswith("mm1_hf."):
        code = f"version {CONVERTERS_VERSION}"
    else:
        try:
            code = inspect.getsource(function)
        except (OSError, TypeError):
            code = "no source"
    options = "" if function is converter else repr(sorted(vars(converter).items()))
    if isinstance(images, Mapping):
        place = fingerprint(sorted(images))
    else:
        place = "" if images is None else os.fspath(images)
    return "|".join([name, code, options, place])


def require_index(index: SupportsIndex, *, length: int, name: str) -> int:
    """The index as a whole number from 0.

    Raises:
        IndexError: If the source has no such document; negative indices count from the end.
    """
    position = operator.index(index)
    if not -length <= position < length:
        raise IndexError(f"Source {name!r} has {length} documents, so there is none at {position}.")
    return position % length
