"""`Box` and `Point`: places on a picture, in pixels."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place on a picture, in pixels from its upper left corner.

    Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1, its centre is
    (0.5, 0.5), and the lower right corner of a picture is (width, height).

    Attributes:
        x: Pixels from the left.
        y: Pixels from the top.

    Raises:
        ValueError: If a coordinate is not finite.
    """

    x: float
    y: float

    def __post_init__(self):
        _require_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An upright rectangle on a picture, in pixels; coordinates are continuous as in `Point`.

    Attributes:
        left: Left edge.
        top: Upper edge.
        right: Right edge, not left of `left`.
        bottom: Lower edge, not above `top`.

    Raises:
        ValueError: If a coordinate is not finite or two edges are swapped.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self):
        _require_finite(self)
        if self.left > self.right or self.top > self.bottom:
            raise ValueError(
                f"{self} has swapped edges: left must not exceed right, nor top exceed bottom. "
                "A source that gives width and height needs right = left + width."
            )

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def center(self) -> Point:
        """The middle."""
        return Point(x=(self.left + self.right) / 2, y=(self.top + self.bottom) / 2)

    def intersection(self, other: "Box") -> "Box | None":
        """What lies in both boxes, or `None` if they do not touch."""
        left, right = max(self.left, other.left), min(self.right, other.right)
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        if left > right or top > bottom:
            return None
        return Box(left=left, top=top, right=right, bottom=bottom)

    def clip(self, *, height: float, width: float) -> "Box | None":
        """The part on a picture of `height` x `width` pixels, or `None` if there is none."""
        return self.intersection(Box(left=0, top=0, right=width, bottom=height))


def _require_finite(region: Box | Point) -> None:
    for field in fields(region):
        value = getattr(region, field.name)
        if not math.isfinite(value):
            raise ValueError(
                f"{type(region).__name__}.{field.name} is {value}, but a number of pixels is "
                "expected."
            )


__all__ = ["Box", "Point"]
