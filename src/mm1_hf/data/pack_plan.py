"""The plan of packs: which pieces of which documents make up sequence k, as arrays in files.

Letters: P packs, Q pieces of all packs, S leaf sources.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np

from mm1_hf.data.array_files import ArrayFolder, open_array, read_meta

ShareOf = Literal["documents", "sequences", "tokens", "images"]

_PACK_DTYPES = {"pack_pieces": np.uint32, "pack_tokens": np.uint32, "pack_images": np.uint16}
_PIECE_DTYPES = {
    "piece_leaf": np.uint16,
    "piece_document": np.uint32,
    "piece_start": np.uint32,
    "piece_stop": np.uint32,
}


class Piece(NamedTuple):
    """A document, or a part of one, in a pack.

    Attributes:
        source: Name of the source.
        document: Its index in the source.
        start: First token of the piece, counted in the document with all placeholders of its images
            (`encoding.expand`).
        stop: The token behind the last one.
    """

    source: str
    document: int
    start: int
    stop: int


class Pack(NamedTuple):
    """One sequence: its pieces in order, and their tokens and images."""

    pieces: tuple[Piece, ...]
    tokens: int
    images: int


@dataclass
class SourceReport:
    """What a plan does with one source.

    The first seven count what is in the plan's packs. The others count what happened to the
    documents on the way into them; the last window may hold documents beyond the last pack.

    Attributes:
        documents: Documents in the packs, each epoch counted.
        pieces: Documents and parts of documents.
        sequences: Packs that hold at least one piece of the source.
        tokens: Sequence positions, images included.
        images: Images.
        unmeasured_images: Images of the documents that had no readable header when lengths were
            measured; they have no tokens, and are met when the document is read.
        lowered_images: Images of the documents that have fewer tiles than the settings ask for,
            because of `max_image_tokens`.
        split: Documents cut into several pieces.
        truncated: Documents of which the end is missing.
        dropped: Documents left out because they are over the budget.
        unusable: Documents left out because they could not be measured; conversations without an
            answer are among them.
        dropped_images: Images left out of documents that were cut, because they fit nowhere.
        unanswered: Conversations left out because nothing of their answers fits into the budgets.
        unanswered_pieces: Pieces of other conversations left out because no answer stands in them.
        first_unanswered: Index of the first document that `unanswered` counts.
    """

    documents: int = 0
    pieces: int = 0
    sequences: int = 0
    tokens: int = 0
    images: int = 0
    unmeasured_images: int = 0
    lowered_images: int = 0
    split: int = 0
    truncated: int = 0
    dropped: int = 0
    unusable: int = 0
    dropped_images: int = 0
    unanswered: int = 0
    unanswered_pieces: int = 0
    first_unanswered: int | None = None

    @property
    def attempted(self) -> int:
        """Images and documents, or pieces of them, that are read or could not be used before.

        Everything that counts towards an error budget is among them.
        """
        planned = self.images + self.pieces
        return planned + self.unmeasured_images + self.unusable + self.unanswered


class PackBatch(NamedTuple):
    """Some packs, as arrays.

    Attributes:
        pieces: Pieces of each pack, int64, shape (P,).
        tokens: Tokens of each pack, int64, shape (P,).
        images: Images of each pack, int64, shape (P,).
        leaf: Leaf of each piece, int16, shape (Q,).
        document: Document of each piece, int64, shape (Q,).
        start: First token of each piece, int64, shape (Q,).
        stop: The token behind each piece, int64, shape (Q,).
        piece_images: Images of each piece, int64, shape (Q,).
        begins: Whether a piece is the first of its document, bool, shape (Q,).
    """

    pieces: np.ndarray
    tokens: np.ndarray
    images: np.ndarray
    leaf: np.ndarray
    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    piece_images: np.ndarray
    begins: np.ndarray

    def take(self, packs: np.ndarray) -> "PackBatch":
        """The packs with the given numbers, in that order."""
        ends = np.cumsum(self.pieces)
        counts = self.pieces[packs]
        shift = (ends - self.pieces)[packs] - (np.cumsum(counts) - counts)
        chosen = np.repeat(shift, counts) + np.arange(int(counts.sum()))
        return PackBatch(
            *(column[packs] for column in self[:3]), *(column[chosen] for column in self[3:])
        )

    def head(self, count: int) -> "PackBatch":
        """The first `count` packs."""
        end = int(self.pieces[:count].sum())
        return PackBatch(*(c[:count] for c in self[:3]), *(c[:end] for c in self[3:]))

    def tail(self, count: int) -> "PackBatch":
        """All packs but the first `count`."""
        end = int(self.pieces[:count].sum())
        return PackBatch(*(c[count:] for c in self[:3]), *(c[end:] for c in self[3:]))

    @staticmethod
    def concatenate(batches: "Sequence[PackBatch]") -> "PackBatch":
        """Packs of several batches behind each other."""
        return PackBatch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


@dataclass(frozen=True, eq=False)
class PackPlan:
    """All packs of a run, in order.

    `plan[k]` is pack k: a lookup, whatever came before. `len(plan)` is the number of packs. Made by
    `plan_packs`; kept in files, it is mapped into memory and costs none.

    Attributes:
        sources: Names of the leaf sources; `piece_leaf` counts them.
        sequence_length: Tokens that a pack may have.
        max_images: Images that a pack may have.
        fingerprint: Of everything the plan was made from.
        report: What became of every source.
        offsets: int64, shape (P + 1,): where the pieces of a pack begin.
        pack_tokens: Tokens of each pack, shape (P,).
        pack_images: Images of each pack, shape (P,).
        piece_leaf: Leaf of each piece, shape (Q,).
        piece_document: Document of each piece, shape (Q,).
        piece_start: First token of each piece, shape (Q,).
        piece_stop: The token behind each piece, shape (Q,).
        folder: Where the files are, if there are any.
    """

    sources: tuple[str, ...]
    sequence_length: int
    max_images: int
    fingerprint: str
    report: dict[str, SourceReport]
    offsets: np.ndarray
    pack_tokens: np.ndarray
    pack_images: np.ndarray
    piece_leaf: np.ndarray
    piece_document: np.ndarray
    piece_start: np.ndarray
    piece_stop: np.ndarray
    folder: str | None = None

    def __len__(self) -> int:
        return len(self.pack_tokens)

    def __getitem__(self, index: int) -> Pack:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Pack {index} of a plan of {len(self):,} packs.")
        index %= len(self)
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        columns = (self.piece_leaf, self.piece_document, self.piece_start, self.piece_stop)
        rows = zip(*(column[span].tolist() for column in columns), strict=True)
        pieces = tuple(Piece(self.sources[leaf], *rest) for leaf, *rest in rows)
        return Pack(pieces, int(self.pack_tokens[index]), int(self.pack_images[index]))

    def __iter__(self) -> Iterator[Pack]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> Any:
        # A worker process opens the files itself; copying the arrays would copy the whole plan.
        if self.folder is not None:
            return PackPlan.open, (self.folder,)
        return PackPlan, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def efficiency(self) -> float:
        """Share of the slots of all packs that hold a token."""
        slots = len(self) * self.sequence_length
        return sum(entry.tokens for entry in self.report.values()) / slots if slots else 1.0

    def shares(self, of: ShareOf) -> dict[str, float]:
        """Realised share of every source, counted in documents, sequences, tokens or images.

        A sequence in which several sources meet counts for each of them.
        """
        counts = {name: getattr(entry, of) for name, entry in self.report.items()}
        total = sum(counts.values())
        return {name: count / total if total else 0.0 for name, count in counts.items()}

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "PackPlan":
        """Map a plan in a folder into memory.

        Raises:
            ValueError: If there is no finished plan.
        """
        meta = read_meta(folder)
        if meta is None:
            raise ValueError(f"There is no finished plan in {folder}. Make it with plan_packs.")
        names = ["offsets", *(name for name in _PACK_DTYPES if name != "pack_pieces")]
        arrays: dict[str, Any] = {
            name: open_array(folder, name) for name in [*names, *_PIECE_DTYPES]
        }
        report = {name: SourceReport(**entry) for name, entry in meta.pop("report").items()}
        sources = tuple(meta.pop("sources"))
        return cls(sources=sources, report=report, folder=os.fspath(folder), **meta, **arrays)


def write_plan(
    folder: str | os.PathLike,
    batches: Iterable[PackBatch],
    *,
    report: dict[str, SourceReport],
    meta: dict[str, Any],
) -> None:
    """Write packs to a folder as they come, holding one batch at a time.

    Args:
        folder: The folder to make.
        batches: The packs.
        report: Filled by the time that `batches` ends.
        meta: The plain fields of `PackPlan`.
    """
    dtypes = _PIECE_DTYPES | {name: t for name, t in _PACK_DTYPES.items() if name != "pack_pieces"}
    end = 0
    with ArrayFolder(folder, {**dtypes, "offsets": np.int64}) as files:
        files.append("offsets", np.zeros(1))
        for batch in batches:
            ends = end + np.cumsum(batch.pieces)
            files.append("offsets", ends)
            end = int(ends[-1]) if len(ends) else end
            for name, values in _columns(batch).items():
                files.append(name, values)
        files.meta = {**meta, "report": {name: asdict(entry) for name, entry in report.items()}}


def collect_plan(
    batches: Iterable[PackBatch], *, report: dict[str, SourceReport], meta: dict[str, Any]
) -> PackPlan:
    """A plan held in memory; arguments as `write_plan`."""
    packs = PackBatch.concatenate(list(batches))
    dtypes = {**_PACK_DTYPES, **_PIECE_DTYPES}
    arrays: dict[str, Any] = {
        name: values.astype(dtypes[name]) for name, values in _columns(packs).items()
    }
    offsets = np.concatenate([[0], np.cumsum(packs.pieces, dtype=np.int64)])
    sources = tuple(meta["sources"])
    return PackPlan(**{**meta, "sources": sources}, report=report, offsets=offsets, **arrays)


def _columns(batch: PackBatch) -> dict[str, np.ndarray]:
    return {
        "pack_tokens": batch.tokens,
        "pack_images": batch.images,
        "piece_leaf": batch.leaf,
        "piece_document": batch.document,
        "piece_start": batch.start,
        "piece_stop": batch.stop,
    }
