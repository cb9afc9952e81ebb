"""Regions as text and back: `[x1, y1, x2, y2]` on a grid that spans the whole image."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mm1_hf.grounding.regions import Box, Point

AxisOrder = Literal["xy", "yx"]
Fault = Literal["malformed", "count", "outside", "swapped"]
FaultPolicy = Literal["reject", "repair"]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_NUMBER_CHARACTERS = r"0-9.+\-\s"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateFormat:
    """How a region is written.

    A box is two corners, upper left and lower right; a point is one corner. A coordinate is the
    share of the image's width or height, times `grid`, rounded to `decimals` places (a half is
    rounded up): 0 is the left or upper edge and `grid` the right or lower one.

    Attributes:
        grid: Value of the right and lower edge.
        decimals: Places behind the decimal point.
        opening: Text in front of the coordinates.
        closing: Text behind them.
        separator: Text between them.
        axis_order: `"xy"`, or `"yx"` for forms that begin with the vertical coordinate.

    Raises:
        ValueError: If regions written so could not be read again.
    """

    grid: int = 1000
    decimals: int = 0
    opening: str = "["
    closing: str = "]"
    separator: str = ", "
    axis_order: AxisOrder = "xy"

    def __post_init__(self):
        if self.grid < 1 or self.decimals < 0:
            raise ValueError(
                f"grid is {self.grid} and decimals is {self.decimals}, but the grid must be at "
                "least 1 and decimals at least 0."
            )
        if self.axis_order not in get_args(AxisOrder):
            raise ValueError(f"axis_order is {self.axis_order!r}, but it must be 'xy' or 'yx'.")
        for name in ("opening", "closing", "separator"):
            text = getattr(self, name)
            if not text.strip() or re.search(r"[0-9.+\-]", text):
                raise ValueError(
                    f"{name} is {text!r}, but it must have a character that is neither a space nor "
                    "part of a number, and no digit, dot or sign."
                )
        if self.closing.strip().startswith(self.separator.strip()):
            raise ValueError(
                f"closing ({self.closing!r}) begins with the separator ({self.separator!r}), so "
                "the end of a region could not be told from a next number: change one of them."
            )

    @property
    def step(self) -> float:
        """Distance of neighbouring values, as a share of the image's side."""
        return 1 / (self.grid * 10**self.decimals)


FERRET = CoordinateFormat()
"""`[x1, y1, x2, y2]`: whole numbers on a grid of 1000 x 1000.

Source: Ferret, arXiv 2310.07704, for the form; rounding to the nearest value is our choice.
"""

SHIKRA = CoordinateFormat(grid=1, decimals=3, separator=",")
"""`[0.123,0.456,0.789,1.000]`: shares of width and height with three decimals.

Source: Shikra, arXiv 2306.15195.
"""


class FoundRegion(NamedTuple):
    """A place in a text that looks like a region.

    Attributes:
        region: The region in pixels; `None` if it cannot be used.
        start: Where it begins in the text.
        end: Where it ends, exclusive: `text[start:end]` is what was found.
        faults: What is wrong with it, in the order of `Fault`; empty if nothing is.
    """

    region: Box | Point | None
    start: int
    end: int
    faults: tuple[Fault, ...]


def format_box(
    box: Box, *, height: int, width: int, coordinate_format: CoordinateFormat = FERRET
) -> str:
    """Write a box of an upright image of `height` x `width` pixels.

    >>> format_box(Box(left=64, top=48, right=320, bottom=480), height=480, width=640)
    '[100, 100, 500, 1000]'

    Raises:
        ValueError: If the box reaches over the edge of the image.
    """
    corners = [(box.left, box.top), (box.right, box.bottom)]
    return _write(box, corners, height=height, width=width, coordinate_format=coordinate_format)


def format_point(
    point: Point, *, height: int, width: int, coordinate_format: CoordinateFormat = FERRET
) -> str:
    """Write a point of an upright image of `height` x `width` pixels.

    >>> format_point(Point(x=320, y=120), height=480, width=640)
    '[500, 250]'

    Raises:
        ValueError: If the point lies beyond the edge of the image.
    """
    corners = [(point.x, point.y)]
    return _write(point, corners, height=height, width=width, coordinate_format=coordinate_format)


def format_boxes(
    boxes: Sequence[Box],
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat = FERRET,
    separator: str = ", ",
) -> str:
    """Write several boxes, with `separator` between them; see `format_box`."""
    sizes = {"height": height, "width": width, "coordinate_format": coordinate_format}
    return separator.join(format_box(box, **sizes) for box in boxes)


def format_points(
    points: Sequence[Point],
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat = FERRET,
    separator: str = ", ",
) -> str:
    """Write several points, with `separator` between them; see `format_point`."""
    sizes = {"height": height, "width": width, "coordinate_format": coordinate_format}
    return separator.join(format_point(point, **sizes) for point in points)


def find_regions(
    text: str,
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat = FERRET,
    faulty: FaultPolicy = "reject",
) -> list[FoundRegion]:
    """Find everything in a model's answer that looks like a region, in reading order.

    Spaces may stand anywhere or be missing, numbers may have decimals and signs. What may be wrong:

    - `"malformed"`: not closed, or something between the marks is no number;
    - `"count"`: neither two numbers (a point) nor four (a box);
    - `"outside"`: a number below 0 or above the grid;
    - `"swapped"`: the corners of a box in the wrong order.

    The first two are never usable. With `faulty="reject"` (our choice: what a model did not say,
    it did not get right) neither are the others; with `"repair"` numbers are moved to the edge of
    the grid and corners are put in order. Faults are named in either case.

    >>> find_regions("a cat [100, 100, 500, 1000].", height=480, width=640)[0].region
    Box(left=64.0, top=48.0, right=320.0, bottom=480.0)
    >>> find_regions("[500, 250, 400, 1200]", height=480, width=640)[0].faults
    ('outside', 'swapped')

    Args:
        text: Any text.
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        coordinate_format: How regions are written.
        faulty: What to do with numbers outside the grid and swapped corners.
    """
    if faulty not in get_args(FaultPolicy):
        raise ValueError(f"faulty is {faulty!r}, but it must be 'reject' or 'repair'.")
    found = []
    for match in _pattern(coordinate_format).finditer(text):
        if not re.search(r"[0-9]", match["body"]):
            continue
        numbers = _read_numbers(match, coordinate_format)
        region: Box | Point | None = None
        faults: tuple[Fault, ...] = ("malformed",) if numbers is None else ("count",)
        if numbers is not None and len(numbers) in (2, 4):
            region, faults = _to_region(
                numbers, height=height, width=width, coordinate_format=coordinate_format
            )
            if faults and faulty == "reject":
                region = None
        found.append(FoundRegion(region, match.start(), match.end(), faults))
    return found


def parse_boxes(
    text: str,
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat = FERRET,
    faulty: FaultPolicy = "reject",
) -> list[Box]:
    """The usable boxes in a text, in reading order; see `find_regions`."""
    found = find_regions(
        text, height=height, width=width, coordinate_format=coordinate_format, faulty=faulty
    )
    return [entry.region for entry in found if isinstance(entry.region, Box)]


def parse_points(
    text: str,
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat = FERRET,
    faulty: FaultPolicy = "reject",
) -> list[Point]:
    """The usable points in a text, in reading order; see `find_regions`."""
    found = find_regions(
        text, height=height, width=width, coordinate_format=coordinate_format, faulty=faulty
    )
    return [entry.region for entry in found if isinstance(entry.region, Point)]


def _write(
    region: Box | Point,
    corners: list[tuple[float, float]],
    *,
    height: int,
    width: int,
    coordinate_format: CoordinateFormat,
) -> str:
    numbers = []
    for x, y in corners:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"{region} reaches beyond the image of {height} x {width} pixels (height x width). "
                "Check that it belongs to this image, upright; if it does, cut it to the image "
                "with Box.clip(height=…, width=…)."
            )
        pair = [_scale(x / width, coordinate_format), _scale(y / height, coordinate_format)]
        numbers += pair if coordinate_format.axis_order == "xy" else reversed(pair)
    joined = coordinate_format.separator.join(numbers)
    return f"{coordinate_format.opening}{joined}{coordinate_format.closing}"


def _scale(share: float, coordinate_format: CoordinateFormat) -> str:
    # Counted in steps, since Python's own rounding of decimals takes a half to the even neighbour.
    steps = math.floor(share * coordinate_format.grid * 10**coordinate_format.decimals + 0.5)
    return f"{steps / 10**coordinate_format.decimals:.{coordinate_format.decimals}f}"


def _pattern(coordinate_format: CoordinateFormat) -> re.Pattern[str]:
    separator = re.escape(coordinate_format.separator.strip())
    # Possessive by construction: no two alternatives begin with the same character.
    body = rf"(?P<body>(?:[{_NUMBER_CHARACTERS}]|{separator})*)"
    opening = re.escape(coordinate_format.opening.strip())
    closing = re.escape(coordinate_format.closing.strip())
    return re.compile(rf"{opening}{body}(?P<closing>{closing})?")


def _read_numbers(match: re.Match[str], coordinate_format: CoordinateFormat) -> list[float] | None:
    """The numbers between the marks, or `None` if the region is malformed."""
    if match["closing"] is None:
        return None
    pieces = [piece.strip() for piece in match["body"].split(coordinate_format.separator.strip())]
    if not all(_NUMBER.fullmatch(piece) for piece in pieces):
        return None
    return [float(piece) for piece in pieces]


def _to_region(
    numbers: list[float], *, height: int, width: int, coordinate_format: CoordinateFormat
) -> tuple[Box | Point, tuple[Fault, ...]]:
    """Pixels, repaired where they must be, and what had to be repaired."""
    faults: list[Fault] = []
    grid = coordinate_format.grid
    if not all(0 <= number <= grid for number in numbers):
        faults.append("outside")
        numbers = [min(max(number, 0.0), grid) for number in numbers]
    first, second = (0, 1) if coordinate_format.axis_order == "xy" else (1, 0)
    xs = [number * width / grid for number in numbers[first::2]]
    ys = [number * height / grid for number in numbers[second::2]]
    if len(numbers) == 2:
        return Point(x=xs[0], y=ys[0]), tuple(faults)
    if xs[0] > xs[1] or ys[0] > ys[1]:
        faults.append("swapped")
        xs, ys = sorted(xs), sorted(ys)
    return Box(left=xs[0], top=ys[0], right=xs[1], bottom=ys[1]), tuple(faults)


__all__ = [
    "FERRET",
    "SHIKRA",
    "AxisOrder",
    "CoordinateFormat",
    "Fault",
    "FaultPolicy",
    "FoundRegion",
    "find_regions",
    "format_box",
    "format_boxes",
    "format_point",
    "format_points",
    "parse_boxes",
    "parse_points",
]
