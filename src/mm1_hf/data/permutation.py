"""Shuffles that need no memory: element n of a permutation of any size, computed alone.

Integer arithmetic only, so that an order planned today is the order planned by another version of
numpy, on another machine, in another year.
"""

import hashlib

import numpy as np

# Source of the three constants: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

# Four rounds make a Feistel network pseudo-random (Luby and Rackoff); two more are our choice,
# because the halves of a small permutation are short.
_ROUNDS = 6
_LARGEST = 2**62


def derive_key(*parts: object) -> int:
    """A 64-bit key from a seed and labels; equal parts give equal keys in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def hash_positions(positions: np.ndarray, *, key: int) -> np.ndarray:
    """A pseudo-random uint64 for every position; sorting by it shuffles."""
    with np.errstate(over="ignore"):
        return _mix(positions.astype(np.uint64) * _GOLDEN + np.uint64(key))


def shuffled_epochs(positions: np.ndarray, *, size: int, key: int) -> np.ndarray:
    """Elements at the given positions of an endless series of epochs.

    Every epoch is another permutation of `range(size)`, so nothing comes twice before everything
    came once.

    Args:
        positions: Non-negative positions in the series, any shape.
        size: Elements of an epoch.
        key: What the permutations depend on; see `derive_key`.

    Returns:
        Elements, int64, of the shape of `positions`.

    Raises:
        ValueError: If `size` is not positive or too large for 64-bit arithmetic.
    """
    if not 1 <= size <= _LARGEST:
        raise ValueError(f"size is {size}, but an epoch has 1 to {_LARGEST} elements.")
    positions = np.asarray(positions, dtype=np.int64)
    epochs, elements = np.divmod(positions, size)
    keys = hash_positions(epochs, key=key)
    elements = elements.astype(np.uint64)
    permuted = _feistel(elements, keys, size)
    # The network permutes a square a little larger than `size`; walking on until an element is
    # inside permutes the elements that are.
    outside = permuted >= size
    while outside.any():
        permuted[outside] = _feistel(permuted[outside], keys[outside], size)
        outside = permuted >= size
    return permuted.astype(np.int64)


def _feistel(elements: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """A keyed permutation of the smallest square that holds `size` elements."""
    root = int(np.sqrt(size))
    while root * root < size:
        root += 1
    side = np.uint64(root)
    left, right = np.divmod(elements, side)
    with np.errstate(over="ignore"):
        for number in range(1, _ROUNDS + 1):
            mixed = _mix(right + keys + np.uint64(number) * _GOLDEN)
            # Multiply and shift instead of a remainder, which costs several times as much. `side`
            # is below 2**32, as `size` is below 2**62.
            step = ((mixed >> np.uint64(32)) * side) >> np.uint64(32)
            total = left + step
            total -= side * (total >= side)
            left, right = right, total
    return left * side + right


def _mix(values: np.ndarray) -> np.ndarray:
    values = values ^ (values >> np.uint64(30))
    values *= _FIRST
    values ^= values >> np.uint64(27)
    values *= _SECOND
    values ^= values >> np.uint64(31)
    return values
