"""Documents in mixed order become packs, window by window.

A window is packed alone, so a pack depends on the window it comes from and on nothing before or
behind it: a longer plan begins with the shorter one, and the memory needed is that of some windows.

Letters: P packs, Q pieces of documents.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from mm1_hf.data.best_fit import Cut, OverBudget, cut_document, cut_text, pack_window
from mm1_hf.data.lengths import DocumentLengths, DocumentRuns
from mm1_hf.data.mixture import Mixture, TokenOrder
from mm1_hf.data.pack_plan import PackBatch, SourceReport
from mm1_hf.data.permutation import derive_key, hash_positions

_WINDOWS_AT_ONCE = 32
_PACKS_AT_ONCE = 4096
_PACKS_PER_WINDOW_BITS = 24


class Budgets(NamedTuple):
    """What a pack may hold, and what happens to a document that is larger."""

    sequence_length: int
    max_images: int
    over_budget: OverBudget


class Planner:
    """Streams the packs of a mixture, and counts what becomes of its documents.

    Args:
        mixture: Sources and weights.
        lengths: Lengths of every leaf, in the order of `mixture.leaves`.
        budgets: What a pack may hold.
        window: Documents that are packed together.
    """

    def __init__(
        self, mixture: Mixture, lengths: list[DocumentLengths], budgets: Budgets, window: int
    ):
        self.mixture = mixture
        self.lengths = lengths
        self.budgets = budgets
        self.window = window
        self.report = {leaf.name: SourceReport() for leaf in mixture.leaves}
        self._unmeasured = [own.unmeasured_images() for own in lengths]

    def packs(self, num_packs: int | None, num_documents: int | None) -> Iterator[PackBatch]:
        """Packs until there are enough, or until the documents are used up."""
        if num_documents is not None and self.mixture.unit == "sequence":
            stream = self._of_leaf(0, num_documents)
        elif self.mixture.unit == "sequence":
            stream = self._mixed_packs()
        else:
            stream = self._mixed_documents(num_documents)
        left = num_packs
        # A first batch without packs gives the arrays of an empty plan their types.
        yield self._counted(_pack(_Items.empty(), self.budgets, key=0))
        for batch in stream:
            if left is not None:
                batch = batch.head(left)
                left -= len(batch.pieces)
            yield self._counted(batch)
            if left == 0:
                return

    def _mixed_packs(self) -> Iterator[PackBatch]:
        """Unit "sequence": packs of the single sources, in mixed order."""
        streams = [self._of_leaf(leaf, None) for leaf in range(len(self.lengths))]
        waiting = [next(stream) for stream in streams]
        start = 0
        while True:
            order = self.mixture.order(start, start + _PACKS_AT_ONCE)
            start += _PACKS_AT_ONCE
            parts = []
            for leaf, stream in enumerate(streams):
                count = int((order.leaf == leaf).sum())
                batches = [waiting[leaf]]
                while sum(len(batch.pieces) for batch in batches) < count:
                    batches.append(next(stream))
                ready = PackBatch.concatenate(batches)
                parts.append(ready.head(count))
                waiting[leaf] = ready.tail(count)
            # The parts stand leaf after leaf; a pack goes to the position that asked for it.
            places = np.empty(_PACKS_AT_ONCE, dtype=np.int64)
            places[np.argsort(order.leaf, kind="stable")] = np.arange(_PACKS_AT_ONCE)
            yield PackBatch.concatenate(parts).take(places)

    def _of_leaf(self, leaf: int, num_documents: int | None) -> Iterator[PackBatch]:
        """Packs of one source, window after window, through its epochs."""
        size = len(self.lengths[leaf])
        per_epoch = -(-size // self.window)
        key = derive_key(self.mixture.seed, "packs", self.mixture.leaves[leaf].name)
        first = 0
        while True:
            windows = np.arange(first, first + _WINDOWS_AT_ONCE)
            epochs, numbers = np.divmod(windows, per_epoch)
            starts = epochs * size + numbers * size // per_epoch
            stops = epochs * size + (numbers + 1) * size // per_epoch
            if num_documents is not None:
                starts, stops = np.minimum(starts, num_documents), np.minimum(stops, num_documents)
            counts = stops - starts
            index = np.arange(starts[0], stops[-1])
            if len(index) == 0:
                return
            documents = self.mixture.documents(leaf, index, size=size)
            leaves = np.full(len(index), leaf, dtype=np.int16)
            items = self._items(leaves, documents, np.repeat(windows, counts))
            yield _pack(items, self.budgets, key=key)
            first += _WINDOWS_AT_ONCE

    def _mixed_documents(self, num_documents: int | None) -> Iterator[PackBatch]:
        """Units "document" and "token": packs of documents in mixed order."""
        key = derive_key(self.mixture.seed, "packs")
        take = self._token_order().take if self.mixture.unit == "token" else None
        step = self.window * _WINDOWS_AT_ONCE
        start = 0
        while num_documents is None or start < num_documents:
            stop = start + step if num_documents is None else min(start + step, num_documents)
            order = self.mixture.order(start, stop) if take is None else take(stop - start)
            documents = np.empty(len(order.leaf), dtype=np.int64)
            for leaf, own in enumerate(self.lengths):
                chosen = order.leaf == leaf
                index = order.ordinal[chosen]
                documents[chosen] = self.mixture.documents(leaf, index, size=len(own))
            windows = np.arange(start, stop) // self.window
            yield _pack(self._items(order.leaf, documents, windows), self.budgets, key=key)
            start = stop

    def _token_order(self) -> TokenOrder:
        """Order by the tokens that documents bring into packs, not by those they have."""
        placed = [_PlacedTokens(own, self.budgets) for own in self.lengths]
        return TokenOrder(self.mixture, placed)

    def _items(self, leaf: np.ndarray, document: np.ndarray, window: np.ndarray) -> "_Items":
        """Documents as items to pack: cut where they are over the budgets."""
        tokens = np.empty(len(leaf), dtype=np.int64)
        images = np.empty(len(leaf), dtype=np.int64)
        for number, own in enumerate(self.lengths):
            chosen = np.flatnonzero(leaf == number)
            tokens[chosen] = own.tokens[document[chosen]]
            images[chosen] = own.images[document[chosen]]
        over = (tokens > self.budgets.sequence_length) | (images > self.budgets.max_images)
        whole = ~over & (tokens > 0)
        self._add("unusable", leaf[tokens == 0])
        place = np.flatnonzero(whole)
        fragments = self._fragments(leaf, document, tokens, images, np.flatnonzero(over))
        # Items stand in the order of their documents, whether those were cut or not.
        source = np.concatenate([place, fragments.place])
        order = np.argsort(source, kind="stable")
        source = source[order]
        zeros = np.zeros(len(place), dtype=np.int64)
        return _Items(
            window[source],
            leaf[source],
            document[source],
            np.concatenate([zeros, fragments.start])[order],
            np.concatenate([tokens[place], fragments.stop])[order],
            np.concatenate([images[place], fragments.images])[order],
            np.concatenate([zeros == 0, fragments.begins])[order],
        )

    def _fragments(
        self,
        leaf: np.ndarray,
        document: np.ndarray,
        tokens: np.ndarray,
        images: np.ndarray,
        over: np.ndarray,
    ) -> "_Fragments":
        policy, length = self.budgets.over_budget, self.budgets.sequence_length
        if policy == "drop":
            self._add("dropped", leaf[over])
            return _Fragments.of([])
        rows: list[tuple[int, int, int, int, bool]] = []
        counted: dict[str, list[int]] = {name: [] for name in ("split", "truncated", "dropped")}
        columns = (over, leaf[over], document[over], tokens[over], images[over])
        names = [own.name for own in self.mixture.leaves]
        for place, number, index, size, num_images in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            own = self.lengths[number]
            report = self.report[names[number]]
            if num_images == 0 and own.offsets[index + 1] - own.offsets[index] == 1:
                # Plain text, by far the most frequent.
                sizes = [length]
                if policy == "split":
                    sizes = cut_text(size, room=length, sequence_length=length)
                edges = [0, *accumulate(sizes)]
                pieces = [(*span, 0) for span in pairwise(edges)]
            else:
                pieces, lost = _cut(own.runs(index), self.budgets)
                report.dropped_images += lost
            if pieces:
                pieces = self._learnable(pieces, own.runs(index), report, index)
                if not pieces:
                    continue
            kind = "dropped" if not pieces else "truncated" if policy == "truncate" else "split"
            counted[kind].append(number)
            rows += [(place, *piece, nth == 0) for nth, piece in enumerate(pieces)]
        for kind, leaves in counted.items():
            self._add(kind, np.array(leaves, dtype=np.int64))
        return _Fragments.of(rows)

    def _learnable(
        self,
        pieces: Sequence[tuple[int, int, int]],
        runs: DocumentRuns,
        report: SourceReport,
        document: int,
    ) -> Sequence[tuple[int, int, int]]:
        """The pieces that hold a target; only conversations may lose any here."""
        kept = _with_targets(pieces, runs)
        if kept:
            report.unanswered_pieces += len(pieces) - len(kept)
        else:
            report.unanswered += 1
            if report.first_unanswered is None:
                report.first_unanswered = document
        return kept

    def _counted(self, batch: PackBatch) -> PackBatch:
        """Add a batch to the report."""
        self._add("documents", batch.leaf[batch.begins])
        self._add("pieces", batch.leaf)
        self._add("tokens", batch.leaf, batch.stop - batch.start)
        self._add("images", batch.leaf, batch.piece_images)
        for number, places in enumerate(self._unmeasured):
            if len(places):
                document = batch.document[batch.begins & (batch.leaf == number)]
                ends = (np.searchsorted(places, document, side) for side in ("left", "right"))
                before, behind = ends
                report = self.report[self.mixture.leaves[number].name]
                report.unmeasured_images += int((behind - before).sum())
        for number, own in enumerate(self.lengths):
            if own.num_lowered_images:
                document = batch.document[batch.begins & (batch.leaf == number)]
                report = self.report[self.mixture.leaves[number].name]
                report.lowered_images += int(own.lowered[document].sum())
        num_leaves = len(self.lengths)
        pack = np.repeat(np.arange(len(batch.pieces)), batch.pieces)
        met = np.unique(pack * num_leaves + batch.leaf)
        self._add("sequences", met % num_leaves)
        return batch

    def _add(self, name: str, leaf: np.ndarray, amounts: np.ndarray | None = None) -> None:
        counts = np.bincount(leaf, weights=amounts, minlength=len(self.lengths))
        for entry, count in zip(self.report.values(), counts.tolist(), strict=True):
            setattr(entry, name, getattr(entry, name) + int(count))


class _Fragments(NamedTuple):
    place: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    images: np.ndarray
    begins: np.ndarray

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int, bool]]) -> "_Fragments":
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        place, start, stop, images, begins = columns
        return cls(place, start, stop, images, begins == 1)


class _Items(NamedTuple):
    """What is put into packs, shape (items,) each, sorted by window."""

    window: np.ndarray
    leaf: np.ndarray
    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    images: np.ndarray
    begins: np.ndarray

    @classmethod
    def empty(cls) -> "_Items":
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none.astype(np.int16), none, none, none, none, none == 1)


class _PlacedTokens:
    """Tokens that documents bring into packs, by document: an array as `TokenOrder` reads it."""

    def __init__(self, lengths: DocumentLengths, budgets: Budgets):
        self._lengths = lengths
        self._budgets = budgets

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, documents: np.ndarray) -> np.ndarray:
        tokens = self._lengths.tokens[documents].astype(np.int64)
        length, max_images, policy = self._budgets
        if policy == "truncate":
            return np.minimum(tokens, length)
        if policy == "drop":
            over = (tokens > length) | (self._lengths.images[documents] > max_images)
            return np.where(over, 0, tokens)
        return tokens


def is_placeable(runs: DocumentRuns, budgets: Budgets) -> bool:
    """Whether anything of a document over the budgets comes into packs."""
    return bool(_with_targets(_cut(runs, budgets).fragments, runs))


def _cut(runs: DocumentRuns, budgets: Budgets) -> Cut:
    assert budgets.over_budget != "drop", "nothing is cut then"
    return cut_document(
        runs.tokens.tolist(),
        runs.is_image.tolist(),
        sequence_length=budgets.sequence_length,
        max_images=budgets.max_images,
        over_budget=budgets.over_budget,
    )


def _with_targets(
    pieces: Sequence[tuple[int, int, int]], runs: DocumentRuns
) -> Sequence[tuple[int, int, int]]:
    """The pieces `(start, stop, images)` of a document in which there is something to predict.

    In other documents than conversations all texts are targets, and where pieces without any are
    made it is `cut_document` that decides so: those are kept.
    """
    tokens = np.asarray(runs.tokens, dtype=np.int64)
    targets = np.asarray(runs.targets, dtype=np.int64)
    prompts = (tokens - targets)[~np.asarray(runs.is_image)].sum()
    if prompts <= 1:  # the first token of a document is never a target
        return pieces
    ends = np.cumsum(tokens)
    begins = ends - targets
    return [
        piece
        for piece in pieces
        # The first token of a piece is no target.
        if (np.maximum(begins, piece[0] + 1) < np.minimum(ends, piece[1])).any()
    ]


def _pack(items: _Items, budgets: Budgets, *, key: int) -> PackBatch:
    """Pack window by window, then shuffle the packs of each window."""
    size = items.stop - items.start
    windows, firsts = np.unique(items.window, return_index=True)
    edges = [*firsts.tolist(), len(size)]
    tokens, images = size.tolist(), items.images.tolist()
    packs: list[int] = []
    packs_of_window = []
    for begin, end in pairwise(edges):
        packs += pack_window(
            tokens[begin:end],
            images[begin:end],
            sequence_length=budgets.sequence_length,
            max_images=budgets.max_images,
        )
        packs_of_window.append(max(packs[begin:end]) + 1)
    counts = np.array(packs_of_window, dtype=np.int64)
    base = np.cumsum(counts) - counts
    pack = np.array(packs, dtype=np.int64) + np.repeat(base, np.diff(edges))
    pack = _shuffled_packs(windows, counts, key)[pack]
    order = np.argsort(pack, kind="stable")
    num_packs = int(counts.sum())

    def total(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(pack, weights=values, minlength=num_packs).astype(np.int64)

    pieces = (column[order] for column in items[1:])
    return PackBatch(total(), total(size), total(items.images), *pieces)


def _shuffled_packs(windows: np.ndarray, counts: np.ndarray, key: int) -> np.ndarray:
    """New numbers of packs, which change places inside their window only."""
    window = np.repeat(windows, counts)
    local = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    chance = hash_positions((window << _PACKS_PER_WINDOW_BITS) + local, key=key)
    numbers = np.empty(len(window), dtype=np.int64)
    numbers[np.lexsort((chance, window))] = np.arange(len(window))
    return numbers
