"""How long documents are, known without their pixels: what mixing and packing are planned from.

Per document the tokens and images; per *run* (an image, or the text between two) its tokens and
tiles, so that a document over the budget can be cut where it may be cut.

Letters: N documents, R runs of all documents.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mm1_hf.data.array_files import ArrayFolder, open_array, read_meta

LENGTH_DTYPES = {
    "tokens": np.dtype(np.uint32),
    "images": np.dtype(np.uint16),
    "lowered": np.dtype(np.uint16),
    "run_counts": np.dtype(np.uint32),
    "run_tokens": np.dtype(np.uint32),
    "run_is_image": np.dtype(np.bool_),
    "run_tiles": np.dtype(np.int16),
    "run_targets": np.dtype(np.uint32),
}


_RUNS_AT_ONCE = 1 << 22


class DocumentRuns(NamedTuple):
    """The runs of one document, or of several behind each other.

    Attributes:
        tokens: Tokens of each run, shape (runs,). 0 for an image whose header could not be read.
        is_image: Whether a run is an image, shape (runs,).
        tiles: Tiles of each image, 0 for text, shape (runs,).
        targets: Supervised tokens of each run, shape (runs,); they stand at its end. `None` for
            made-up lengths: all tokens of texts.
    """

    tokens: np.ndarray
    is_image: np.ndarray
    tiles: np.ndarray
    targets: np.ndarray | None = None

    @property
    def image_tokens(self) -> np.ndarray:
        """Tokens of each image, shape (images,): what `encoding.expand` asks for."""
        return np.asarray(self.tokens)[np.asarray(self.is_image)]


@dataclass(frozen=True, eq=False)
class DocumentLengths:
    """Lengths of the documents of one source.

    Attributes:
        tokens: uint32, shape (N,). 0 means that the document could not be used.
        images: uint16, shape (N,): images that take at least one token.
        lowered: uint16, shape (N,): images that got fewer tiles to stay within `max_image_tokens`.
        offsets: int64, shape (N + 1,): where the runs of a document begin.
        run_tokens: uint32, shape (R,).
        run_is_image: bool, shape (R,).
        run_tiles: int16, shape (R,).
        run_targets: uint32, shape (R,): supervised tokens, which stand at the end of a run.
        fingerprint: What the numbers depend on; "" for lengths that were made up.
        num_unmeasured_images: Images whose header could not be read; their runs have no tokens.
        num_lowered_images: The sum of `lowered`.
    """

    tokens: np.ndarray
    images: np.ndarray
    lowered: np.ndarray
    offsets: np.ndarray
    run_tokens: np.ndarray
    run_is_image: np.ndarray
    run_tiles: np.ndarray
    run_targets: np.ndarray
    fingerprint: str = ""
    num_unmeasured_images: int = 0
    num_lowered_images: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def runs(self, document: int) -> DocumentRuns:
        """The runs of one document."""
        span = slice(int(self.offsets[document]), int(self.offsets[document + 1]))
        columns = (self.run_tokens, self.run_is_image, self.run_tiles, self.run_targets)
        return DocumentRuns(*(column[span] for column in columns))

    def unmeasured_images(self) -> np.ndarray:
        """The document of every image that has no tokens, int64, ascending; reads all runs."""
        if not self.num_unmeasured_images:
            return np.empty(0, dtype=np.int64)
        found = []
        for first in range(0, len(self.run_tokens), _RUNS_AT_ONCE):
            part = slice(first, first + _RUNS_AT_ONCE)
            is_unmeasured = self.run_is_image[part] & (self.run_tokens[part] == 0)
            found.append(first + np.flatnonzero(is_unmeasured))
        return np.searchsorted(self.offsets, np.concatenate(found), side="right") - 1

    @classmethod
    def from_runs(
        cls, documents: Iterable[Sequence[tuple[int, int]]], *, fingerprint: str = ""
    ) -> "DocumentLengths":
        """Lengths from lists of runs `(tokens, tiles)`, text having 0 tiles.

        >>> lengths = DocumentLengths.from_runs([[(144, 1), (20, 0)], [(700, 0)]])
        >>> lengths.tokens.tolist(), lengths.images.tolist()
        ([164, 700], [1, 0])
        """
        listed = list(documents)
        flat = np.array([run for runs in listed for run in runs], dtype=np.int64).reshape(-1, 2)
        runs = DocumentRuns(flat[:, 0], flat[:, 1] > 0, flat[:, 1])
        counts = np.array([len(runs) for runs in listed], dtype=np.int64)
        return cls.from_arrays(runs, counts, fingerprint=fingerprint)

    @classmethod
    def from_arrays(
        cls, runs: DocumentRuns, run_counts: np.ndarray, *, fingerprint: str = ""
    ) -> "DocumentLengths":
        """Lengths from the runs of all documents behind each other and their number, shape (N,)."""
        arrays = length_arrays(runs, run_counts)
        offsets = np.concatenate([[0], np.cumsum(run_counts, dtype=np.int64)])
        del arrays["run_counts"]
        unmeasured = int((arrays["run_is_image"] & (arrays["run_tokens"] == 0)).sum())
        return cls(
            offsets=offsets,
            fingerprint=fingerprint,
            num_unmeasured_images=unmeasured,
            num_lowered_images=int(arrays["lowered"].sum()),
            **arrays,
        )

    @classmethod
    def open(
        cls, folder: str | os.PathLike, *, fingerprint: str | None = None
    ) -> "DocumentLengths":
        """Map the lengths in a folder into memory.

        Args:
            folder: What `measure_lengths` wrote.
            fingerprint: What `measuring.fingerprint` gives for the source and processor in use;
                `None` skips the comparison.

        Raises:
            ValueError: If the folder is unfinished or was made with another tokenizer, chat
                template, tiling, markers, budget of image tokens or state of the source.
        """
        meta = read_meta(folder)
        if meta is None:
            raise ValueError(
                f"There are no finished lengths in {folder}. Make them with measure_lengths."
            )
        require_fresh(meta, fingerprint, folder)
        names = [name for name in LENGTH_DTYPES if name != "run_counts"]
        arrays = {name: open_array(folder, name) for name in [*names, "offsets"]}
        unreadable, lowered = meta.get("unreadable", {}), meta.get("lowered", {})
        return cls(
            fingerprint=meta["fingerprint"],
            num_unmeasured_images=unreadable.get("images", 0),
            num_lowered_images=lowered.get("images", 0),
            **arrays,
        )

    def save(self, folder: str | os.PathLike, *, meta: dict[str, Any] | None = None) -> None:
        """Write the lengths to a folder that `open` reads."""
        names = [name for name in LENGTH_DTYPES if name != "run_counts"]
        dtypes = {name: LENGTH_DTYPES[name] for name in names} | {"offsets": np.int64}
        with ArrayFolder(folder, dtypes) as files:
            for name in dtypes:
                files.append(name, getattr(self, name))
            files.meta = {
                "fingerprint": self.fingerprint,
                "unreadable": {"images": self.num_unmeasured_images},
                "lowered": {"images": self.num_lowered_images},
                **(meta or {}),
            }


def length_arrays(
    runs: DocumentRuns, run_counts: np.ndarray, *, lowered: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The arrays of `LENGTH_DTYPES` for documents of the given runs.

    Args:
        runs: The runs of all documents behind each other.
        run_counts: Runs of each document, shape (N,).
        lowered: Images of each document that a budget took tiles from, shape (N,); none if `None`.

    Raises:
        ValueError: If a document is too long for the types.
    """
    run_counts = np.asarray(run_counts)
    ends = np.cumsum(run_counts, dtype=np.int64)
    sums = {
        "tokens": _sum_per_document(runs.tokens, ends),
        "images": _sum_per_document(np.asarray(runs.is_image) & (runs.tokens > 0), ends),
    }
    texts = np.where(np.asarray(runs.is_image, dtype=bool), 0, runs.tokens)
    arrays = {
        **sums,
        "lowered": np.zeros(len(run_counts)) if lowered is None else lowered,
        "run_counts": run_counts,
        "run_tokens": runs.tokens,
        "run_is_image": runs.is_image,
        "run_tiles": runs.tiles,
        "run_targets": texts if runs.targets is None else runs.targets,
    }
    for name in ("tokens", "images", "run_tiles"):
        values, limit = np.asarray(arrays[name]), np.iinfo(LENGTH_DTYPES[name]).max
        if values.size and values.max() > limit:
            raise ValueError(
                f"The largest number of {name} is {values.max():,}, but at most {limit:,} can be "
                f"kept. Split document {int(values.argmax()):,} or leave it out."
            )
    return {name: np.asarray(values).astype(LENGTH_DTYPES[name]) for name, values in arrays.items()}


def require_fresh(meta: dict[str, Any], fingerprint: str | None, folder: Any) -> None:
    """Raise `ValueError` if a folder's fingerprint is not the expected one."""
    if fingerprint is not None and meta.get("fingerprint") != fingerprint:
        raise ValueError(
            f"The lengths in {folder} are stale: their fingerprint is {meta.get('fingerprint')!r}, "
            "but this source with this tokenizer, chat template, tiling, markers and "
            f"max_image_tokens has {fingerprint!r}. Delete the folder and measure again, or use "
            "the settings it was made with."
        )


def _sum_per_document(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    # Differences of a running sum, because documents may have no runs at all.
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(totals[np.concatenate([[0], ends])])
