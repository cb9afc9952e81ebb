"""Canvases: one to four handwritten digits at the places of a 2x2 layout, and their captions."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from mm1_hf.demo.digits import Digits

PLACES = ("top left", "top right", "bottom left", "bottom right")
SMALL_CELL = 16
LARGE_CELL = 32
CAPTION_PROMPT = "Digits:"


class PlacedDigit(NamedTuple):
    """A digit and the name of its place."""

    place: str
    value: int


@dataclass(frozen=True)
class Canvas:
    """A picture and the truth about it.

    Attributes:
        pixels: `(height, width)` uint8, dark ink on white paper.
        digits: What was drawn, in reading order.
    """

    pixels: np.ndarray
    digits: tuple[PlacedDigit, ...]

    @property
    def caption(self) -> str:
        """Every place and its digit, such as `"top left 3, bottom right 7"`.

        The place comes first because a decoder then knows where to look before it has to read.
        """
        return ", ".join(f"{place} {value}" for place, value in self.digits)

    def value_at(self, place: str) -> str:
        """The digit at a place, or `"none"`."""
        return next((str(digit.value) for digit in self.digits if digit.place == place), "none")


class Painter:
    """Draws canvases from a set of digits.

    Args:
        digits: The handwriting to draw from.
        cell: Side of a cell in pixels; a digit fills its cell, and a canvas is 2x2 cells.
        num_variants: Slightly turned, stretched and moved copies of each digit to draw from beside
            the digit itself. For training only: it makes up for the small number of writers.
    """

    def __init__(self, digits: Digits, *, cell: int = SMALL_CELL, num_variants: int = 0):
        self.cell = cell
        glyphs = [_glyph(image, cell) for image in digits.images]
        rng = np.random.default_rng(0)
        variants = [_distort(glyph, rng) for _ in range(num_variants) for glyph in glyphs]
        self.glyphs = np.stack([np.asarray(glyph) for glyph in glyphs + variants])
        self.values = np.tile(digits.values, 1 + num_variants)

    def paint(self, rng: np.random.Generator, *, num_digits: int | None = None) -> Canvas:
        """Draw `num_digits` random digits (one to four by default) at random places."""
        if num_digits is None:
            num_digits = int(rng.integers(1, len(PLACES) + 1))
        places = sorted(rng.permutation(len(PLACES))[:num_digits].tolist())
        pixels = np.full((2 * self.cell, 2 * self.cell), 255, dtype=np.uint8)
        digits = []
        for place, index in zip(
            places, rng.integers(len(self.values), size=num_digits), strict=True
        ):
            row, column = (self.cell * offset for offset in divmod(place, 2))
            pixels[row : row + self.cell, column : column + self.cell] = self.glyphs[index]
            digits.append(PlacedDigit(PLACES[place], int(self.values[index])))
        return Canvas(pixels, tuple(digits))


def _glyph(image: np.ndarray, side: int) -> Image.Image:
    """One 8x8 digit as a picture of `side` pixels, dark on white."""
    paper = np.rint(255 * (1 - image / 16)).astype(np.uint8)
    return Image.fromarray(paper).resize((side, side), Image.Resampling.BILINEAR)


def _distort(glyph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn by up to 9°, stretch by up to 10 %, move by up to 6 % of the side (our choice)."""
    angle = np.radians(rng.uniform(-9, 9))
    wide, high = rng.uniform(0.9, 1.1, size=2)
    cos, sin, center = np.cos(angle), np.sin(angle), glyph.width / 2
    right, down = center + glyph.width * rng.uniform(-0.06, 0.06, size=2)
    # PIL asks where each pixel of the result comes from: x' = a x + b y + c, y' = d x + e y + f.
    a, b, d, e = cos / wide, sin / wide, -sin / high, cos / high
    c, f = center - a * right - b * down, center - d * right - e * down
    return glyph.transform(
        glyph.size,
        Image.Transform.AFFINE,
        (a, b, c, d, e, f),
        Image.Resampling.BILINEAR,
        fillcolor=255,
    )
