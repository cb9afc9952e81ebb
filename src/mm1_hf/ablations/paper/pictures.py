"""Pictures of real handwritten digits, in albums that a seed decides; test writers stay apart."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mm1_hf.ablations.paper.settings import Albums
from mm1_hf.demo.canvases import PLACES, Canvas, Painter, PlacedDigit
from mm1_hf.demo.digits import load_split

_NUM_VARIANTS = 4
# Streams of random numbers, so that no album depends on the size of another.
_STREAMS = {"captioned": 1, "singles": 2, "pages": 3}


class Library:
    """All pictures of one seed.

    Attributes:
        albums: Canvases by the name of their album: `captioned`, `singles` and `pages` of the
            training writers, and the same with `_test` of writers never trained on.
    """

    def __init__(self, sizes: Albums, *, seed: int):
        self.albums: dict[str, list[Canvas]] = {}
        for name, stream in _STREAMS.items():
            for suffix, painter, size in (
                ("", _training_painter(), getattr(sizes, name)),
                ("_test", _test_painter(), sizes.tested),
            ):
                paint = _KINDS[name]
                key = [seed, stream, len(suffix)]
                self.albums[name + suffix] = [
                    paint(painter, np.random.default_rng([*key, index])) for index in range(size)
                ]

    def __getitem__(self, name: str) -> list[Canvas]:
        return self.albums[name]


def paint_page(painter: Painter, rng: np.random.Generator) -> Canvas:
    """A page of four canvases, each empty or with one digit somewhere: small things, large picture.

    What is said about a page are the places of its canvases. A digit has half the side that it has
    on a canvas of its own when the page is shrunk to that size, and the same side when the page is
    cut into four.
    """
    side = 2 * painter.cell
    pixels = np.full((2 * side, 2 * side), 255, dtype=np.uint8)
    digits = []
    for place in sorted(rng.permutation(len(PLACES))[: rng.integers(1, len(PLACES) + 1)].tolist()):
        canvas = painter.paint(rng, num_digits=1)
        row, column = (side * offset for offset in divmod(place, 2))
        pixels[row : row + side, column : column + side] = canvas.pixels
        digits.append(PlacedDigit(PLACES[place], canvas.digits[0].value))
    return Canvas(pixels, tuple(digits))


_KINDS: dict[str, Callable[[Painter, np.random.Generator], Canvas]] = {
    "captioned": lambda painter, rng: painter.paint(rng),
    "singles": lambda painter, rng: painter.paint(rng, num_digits=1),
    "pages": paint_page,
}


@lru_cache(maxsize=1)
def _training_painter() -> Painter:
    return Painter(load_split().train, num_variants=_NUM_VARIANTS)


@lru_cache(maxsize=1)
def _test_painter() -> Painter:
    return Painter(load_split().test)
