"""Sources mixed by weight: which unit comes next, as a pure function of the seed and the position.

No rank, worker, buffer or history enters, so position 10,000,000 is found without the positions
before it, and it is the same after any number of restarts.

Letters: S leaf sources, K positions asked for, B positions of a block.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from mm1_hf.data.permutation import derive_key, hash_positions, shuffled_epochs

Unit = Literal["sequence", "document", "token"]
UNITS: tuple[str, ...] = get_args(Unit)

# Shares are exact at every block end; a block of 256 is exact twice in MM1's batch of 512 sequences
# (our choice).
BLOCK = 256

# Weights are held as multiples of 2**-30, so that counts are integers on every machine; positions
# below 2**33 keep the products inside 64 bits.
_SCALE_BITS = 30
_LAST_POSITION = 2**33


class Leaf(NamedTuple):
    """One source of a flattened mixture; `share` is its part of the whole, `source` may be None."""

    name: str
    share: float
    source: Any


class Order(NamedTuple):
    """Units of a mixture: for every position its leaf, and which unit of that leaf it is.

    `leaf` is int16 and `ordinal` int64, both of shape (positions,). `ordinal` counts through the
    epochs of the leaf without end.
    """

    leaf: np.ndarray
    ordinal: np.ndarray


class _Split(NamedTuple):
    ratio: int
    left: "int | _Split"
    right: "int | _Split"


class Mixture:
    """A weighted mixture of sources.

    Weights need not add up to one. A mixture may stand where a source stands; its sources then
    share its weight, and `unit` and `seed` of the outermost mixture hold for all:

    >>> captions = Mixture({"web": 93, "vecap": 7})
    >>> mixture = Mixture({captions: 45, "interleaved": 45, "text": 10})
    >>> {leaf.name: round(leaf.share, 4) for leaf in mixture.leaves}
    {'web': 0.4185, 'vecap': 0.0315, 'interleaved': 0.45, 'text': 0.1}

    Args:
        weights: Sources, names of sources, or mixtures, each with a positive weight. A name is
            enough to plan; to read documents, sources are needed.
        unit: What the weights count. `"sequence"`: packed sequences, each filled from one source
            (MM1's way, as reported). `"document"`: documents, then packed together. `"token"`:
            sequence positions, then packed together.
        seed: Another seed is another order of everything.

    Raises:
        ValueError: If there is no source, a weight is not positive, a name occurs twice, or the
            unit is unknown.

    Source: MM1, arXiv 2403.09611, sections 3.2 and 4 (45 % captions, 45 % interleaved, 10 % text; 7
    % of the captions synthetic). The blocks are our choice.
    """

    def __init__(
        self,
        weights: "Mapping[Any, float]",
        *,
        unit: Unit = "sequence",
        seed: int = 0,
    ):
        if unit not in UNITS:
            known = ", ".join(map(repr, UNITS))
            raise ValueError(f"unit is {unit!r}, but it must be one of: {known}.")
        self.unit: Unit = unit
        self.seed = seed
        self.leaves: tuple[Leaf, ...] = tuple(_flatten(weights))
        names = [leaf.name for leaf in self.leaves]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"The names {repeated} occur more than once in the mixture. Give every source its "
                "own name; one source cannot stand in two places."
            )
        self._tree = _build_tree([leaf.share for leaf in self.leaves])
        self._key = derive_key(seed, "mixture")

    def __repr__(self) -> str:
        shares = ", ".join(f"{leaf.name}: {leaf.share:.4g}" for leaf in self.leaves)
        return f"Mixture({{{shares}}}, unit={self.unit!r}, seed={self.seed})"

    def counts(self, positions: "int | np.ndarray") -> np.ndarray:
        """Units of each leaf among the first `positions`, int64 of shape (..., S).

        Exact to about one unit of each leaf, and growing in every leaf.
        """
        totals = np.asarray(positions, dtype=np.int64)
        if totals.size and int(totals.max()) > _LAST_POSITION:
            raise ValueError(f"Position {totals.max():,} is beyond the last, {_LAST_POSITION:,}.")
        counts = np.empty((*totals.shape, len(self.leaves)), dtype=np.int64)
        _apportion(self._tree, totals, counts)
        return counts

    def order(self, start: int, stop: int) -> Order:
        """Leaf and unit of the positions from `start` to `stop`, exclusive.

        The order of the units "sequence" and "document"; where tokens are mixed it depends on the
        lengths too, see `TokenOrder`.
        """
        first, last = start // BLOCK, -(-stop // BLOCK)
        edges = self.counts(np.arange(first, last + 1) * BLOCK)  # shape: (blocks + 1, S)
        per_block = np.diff(edges, axis=0)  # shape: (blocks, S)
        num_blocks, num_leaves = per_block.shape
        flat = per_block.ravel()
        leaf = np.repeat(np.tile(np.arange(num_leaves, dtype=np.int16), num_blocks), flat)
        # The n-th unit of a leaf inside a block follows those of the blocks before.
        starts = np.cumsum(flat) - flat
        index = np.arange(leaf.size) + np.repeat(edges[:-1].ravel() - starts, flat)
        positions = np.arange(first * BLOCK, last * BLOCK).reshape(num_blocks, BLOCK)
        shuffle = np.argsort(hash_positions(positions, key=self._key), axis=1, kind="stable")
        leaf = np.take_along_axis(leaf.reshape(num_blocks, BLOCK), shuffle, axis=1)
        # A leaf's own units keep their order: sorted back by leaf, the indices stand as they are.
        back = np.argsort(leaf, axis=1, kind="stable")
        ordered = np.empty_like(positions)
        np.put_along_axis(ordered, back, index.reshape(num_blocks, BLOCK), axis=1)
        wanted = slice(start - first * BLOCK, stop - first * BLOCK)
        return Order(leaf.ravel()[wanted], ordered.ravel()[wanted])

    def documents(self, leaf: int, index: np.ndarray, *, size: int) -> np.ndarray:
        """Documents of a leaf at positions of its own series of shuffled epochs, int64.

        Depends on the seed and the leaf's name only: adding a source leaves the others' orders.
        """
        key = derive_key(self.seed, "epochs", self.leaves[leaf].name)
        return shuffled_epochs(index, size=size, key=key)


class TokenCounts(Protocol):
    """Tokens of the documents of a leaf, by document; an array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, documents: np.ndarray, /) -> np.ndarray: ...


class TokenOrder:
    """Documents in the order in which the shares of *tokens* follow the weights.

    Every document has a moment: the tokens of its source up to its middle, divided by the share of
    the source. Documents come in the order of their moments, so at any point each source is within
    about one document of its share. Reads forward only; the plan stores what it read.

    Args:
        mixture: The mixture.
        tokens: For every leaf, the tokens of its documents, shape (documents,).
    """

    _CHUNK = 4096

    def __init__(self, mixture: Mixture, tokens: "Sequence[TokenCounts]"):
        self._mixture = mixture
        self._tokens = tokens
        num_leaves = len(mixture.leaves)
        self._read = [0] * num_leaves
        self._spent = [0] * num_leaves
        self._moments = [np.empty(0)] * num_leaves
        self._ready: list[Order] = []
        self._num_ready = 0

    def take(self, count: int) -> Order:
        """The next `count` documents."""
        while self._num_ready < count:
            self._advance()
        leaf = np.concatenate([order.leaf for order in self._ready])
        ordinal = np.concatenate([order.ordinal for order in self._ready])
        self._ready = [Order(leaf[count:], ordinal[count:])]
        self._num_ready = len(leaf) - count
        return Order(leaf[:count], ordinal[:count])

    def _advance(self) -> None:
        """Read on where the known moments end first; pass on what nothing unread can precede."""
        ends = [moments[-1] if len(moments) else -1.0 for moments in self._moments]
        self._read_chunk(int(np.argmin(ends)))
        if not all(map(len, self._moments)):
            return
        horizon = min(moments[-1] for moments in self._moments)
        leaf, index, moment = [], [], []
        for number, moments in enumerate(self._moments):
            # Strictly before: an unread document may have the moment of the last one read.
            passed = int(np.searchsorted(moments, horizon, side="left"))
            first = self._read[number] - len(moments)
            leaf.append(np.full(passed, number, dtype=np.int16))
            index.append(np.arange(first, first + passed))
            moment.append(moments[:passed])
            self._moments[number] = moments[passed:]
        ranks = np.argsort(np.concatenate(moment), kind="stable")
        self._ready.append(Order(np.concatenate(leaf)[ranks], np.concatenate(index)[ranks]))
        self._num_ready += len(ranks)

    def _read_chunk(self, number: int) -> None:
        lengths = self._tokens[number]
        index = np.arange(self._read[number], self._read[number] + self._CHUNK)
        documents = self._mixture.documents(number, index, size=len(lengths))
        tokens = lengths[documents].astype(np.int64)
        ends = self._spent[number] + np.cumsum(tokens)
        moments = (ends - tokens / 2) / self._mixture.leaves[number].share
        self._moments[number] = np.concatenate([self._moments[number], moments])
        self._read[number] += self._CHUNK
        self._spent[number] = int(ends[-1])


def _flatten(weights: Mapping[Any, float], share: float = 1.0) -> list[Leaf]:
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"weights is {weights!r}, but a mapping of at least one source to its weight is "
            "expected, such as {source: 1.0}."
        )
    for entry, weight in weights.items():
        if not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise ValueError(
                f"The weight of {_name(entry)!r} is {weight!r}, but a positive number is expected. "
                "Leave out what is not wanted."
            )
    total = sum(weights.values())
    leaves = []
    for entry, weight in weights.items():
        part = share * weight / total
        if isinstance(entry, Mixture):
            leaves += [leaf._replace(share=part * leaf.share) for leaf in entry.leaves]
        else:
            leaves.append(Leaf(_name(entry), part, None if isinstance(entry, str) else entry))
    return leaves


def _name(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    name = getattr(entry, "name", None)
    if not isinstance(name, str) and not isinstance(entry, Mixture):
        raise ValueError(
            f"{entry!r} has no name, but a source, the name of a source, or a Mixture is expected."
        )
    return str(name)


def _build_tree(shares: Sequence[float]) -> "int | _Split":
    """Halve the leaves by weight, again and again.

    Rounding one leaf after the other would let errors add up; in a tree of near halves the error of
    a leaf stays within about one unit. Every split rounds a growing total by a ratio up to one, so
    both sides grow.
    """

    def build(leaves: list[int]) -> "int | _Split":
        if len(leaves) == 1:
            return leaves[0]
        sums = np.cumsum([shares[leaf] for leaf in leaves])
        cut = int(np.argmin(np.abs(sums[:-1] - sums[-1] / 2))) + 1
        ratio = round(float(sums[cut - 1] / sums[-1]) * (1 << _SCALE_BITS))
        return _Split(ratio, build(leaves[:cut]), build(leaves[cut:]))

    return build(sorted(range(len(shares)), key=lambda leaf: (-shares[leaf], leaf)))


def _apportion(tree: "int | _Split", totals: np.ndarray, counts: np.ndarray) -> None:
    if isinstance(tree, int):
        counts[..., tree] = totals
        return
    half = 1 << (_SCALE_BITS - 1)
    left = (totals * tree.ratio + half) >> _SCALE_BITS
    _apportion(tree.left, left, counts)
    _apportion(tree.right, totals - left, counts)
