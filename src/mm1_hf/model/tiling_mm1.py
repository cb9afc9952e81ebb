"""Which tiles an image becomes, where they lie, and how many tokens that makes.

Pure integers: no image, no tensor. The image processor, the processor, the packer, the planner and
serving engines all call these functions, so a count can be wrong in one place only.

Letters: an image of height x width pixels is resized onto a *canvas*, and the canvas is cut into
rows x cols *tiles* of one size; the *overview* is one more tile that shows the whole image.
"""

import operator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Tiling = Literal["none", "static"]
ResizePolicy = Literal["stretch", "crop", "pad"]
PadPlace = Literal["center", "top_left"]
OverviewPlace = Literal["first", "last"]

TILINGS: tuple[str, ...] = get_args(Tiling)
RESIZE_POLICIES: tuple[str, ...] = get_args(ResizePolicy)
PAD_PLACES: tuple[str, ...] = get_args(PadPlace)


class Placement(NamedTuple):
    """A resized image on a canvas.

    The image is resized to `height` x `width` and its upper left corner is put at (`top`, `left`)
    of the canvas, in pixels. A negative offset cuts that much off; a positive one leaves padding.
    """

    height: int
    width: int
    top: int
    left: int


class Box(NamedTuple):
    """A rectangle on the canvas in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """The tiles of one image.

    Attributes:
        height: Height of the image in pixels, upright.
        width: Width of the image in pixels, upright.
        tile_height: Height of every tile in pixels.
        tile_width: Width of every tile in pixels.
        rows: Rows of tiles on the canvas.
        cols: Columns of tiles on the canvas.
        canvas: Where the image lies on the canvas of `rows * tile_height` x `cols * tile_width`.
        overview: Where the image lies on the overview tile, or `None` without one.
        overview_place: Whether the overview stands before or behind the other tiles.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: int
    cols: int
    canvas: Placement
    overview: Placement | None = None
    overview_place: OverviewPlace | None = None

    @property
    def canvas_height(self) -> int:
        """Height of the canvas in pixels."""
        return self.rows * self.tile_height

    @property
    def canvas_width(self) -> int:
        """Width of the canvas in pixels."""
        return self.cols * self.tile_width

    @property
    def num_tiles(self) -> int:
        """Tiles of this image, the overview included."""
        return self.rows * self.cols + (self.overview is not None)

    @property
    def tile_boxes(self) -> tuple[Box, ...]:
        """Where the tiles lie on the canvas, row by row; the overview is not among them."""
        height, width = self.tile_height, self.tile_width
        return tuple(
            Box(row * height, col * width, (row + 1) * height, (col + 1) * width)
            for row in range(self.rows)
            for col in range(self.cols)
        )


def plan_tiles(
    height: int,
    width: int,
    *,
    tile_height: int,
    tile_width: int,
    tiling: str = "none",
    resize_policy: str = "stretch",
    pad_place: str = "center",
) -> TilePlan:
    """Plan the tiles of an image of `height` x `width` pixels.

    `tiling="none"` makes one tile. `tiling="static"` is MM1's: the whole image first, then the four
    quarters of the image resized to twice the tile size, row by row: five tiles.

    >>> plan_tiles(480, 640, tile_height=378, tile_width=378).num_tiles
    1
    >>> plan = plan_tiles(1344, 1344, tile_height=672, tile_width=672, tiling="static")
    >>> plan.num_tiles, plan.overview_place, plan.tile_boxes[1]
    (5, 'first', Box(top=0, left=672, bottom=672, right=1344))

    Args:
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        tile_height: Height of a tile in pixels.
        tile_width: Width of a tile in pixels.
        tiling: One of `TILINGS`.
        resize_policy: One of `RESIZE_POLICIES`; see `place_image`.
        pad_place: One of `PAD_PLACES`; where `"pad"` puts the image.

    Raises:
        ValueError: If a side is smaller than one pixel or a name is unknown.

    Source: MM1, arXiv 2403.09611, section 4 (sub-image decomposition). How MM1 treats aspect ratios
    that differ from the canvas is not public; `resize_policy` is the choice.
    """
    height = _positive("image height", height)
    width = _positive("image width", width)
    tile_height = _positive("tile_height", tile_height)
    tile_width = _positive("tile_width", tile_width)
    require_name("tiling", tiling, TILINGS)

    def place(rows: int, cols: int) -> Placement:
        return place_image(
            height,
            width,
            canvas_height=rows * tile_height,
            canvas_width=cols * tile_width,
            resize_policy=resize_policy,
            pad_place=pad_place,
        )

    rows, cols = (2, 2) if tiling == "static" else (1, 1)
    has_overview = tiling == "static"
    return TilePlan(
        height=height,
        width=width,
        tile_height=tile_height,
        tile_width=tile_width,
        rows=rows,
        cols=cols,
        canvas=place(rows, cols),
        overview=place(1, 1) if has_overview else None,
        overview_place="first" if has_overview else None,
    )


def place_image(
    height: int,
    width: int,
    *,
    canvas_height: int,
    canvas_width: int,
    resize_policy: str = "stretch",
    pad_place: str = "center",
) -> Placement:
    """Resize an image of `height` x `width` pixels for a canvas.

    - `"stretch"`: to the canvas, whatever the aspect ratio (open_clip's way for DFN's CLIP).
    - `"crop"`: until it covers the canvas, the rest cut off evenly (transformers' CLIP way: the
      longer side is rounded down, and of an odd rest the smaller half goes first).
    - `"pad"`: until it fits into the canvas. Centred by default (our choice); the shorter side is
      rounded to the nearest pixel and is at least one pixel.

    >>> place_image(300, 600, canvas_height=100, canvas_width=100, resize_policy="stretch")
    Placement(height=100, width=100, top=0, left=0)
    >>> place_image(300, 600, canvas_height=100, canvas_width=100, resize_policy="crop")
    Placement(height=100, width=200, top=0, left=-50)
    >>> place_image(300, 600, canvas_height=100, canvas_width=100, resize_policy="pad")
    Placement(height=50, width=100, top=25, left=0)

    Raises:
        ValueError: If `resize_policy` or `pad_place` is unknown.
    """
    require_name("resize_policy", resize_policy, RESIZE_POLICIES)
    require_name("pad_place", pad_place, PAD_PLACES)
    if resize_policy == "stretch":
        return Placement(canvas_height, canvas_width, 0, 0)
    # Compared as products: a ratio of floats would round differently on the two sides of equality.
    is_wider_than_canvas = width * canvas_height >= height * canvas_width
    if resize_policy == "crop":
        if is_wider_than_canvas:
            resized_height, resized_width = canvas_height, width * canvas_height // height
        else:
            resized_height, resized_width = height * canvas_width // width, canvas_width
        top, left = (resized_height - canvas_height) // 2, (resized_width - canvas_width) // 2
        return Placement(resized_height, resized_width, -top, -left)
    if is_wider_than_canvas:
        resized_height = max(1, _round_ratio(height * canvas_width, width))
        resized_width = canvas_width
    else:
        resized_height = canvas_height
        resized_width = max(1, _round_ratio(width * canvas_height, height))
    if pad_place == "top_left":
        return Placement(resized_height, resized_width, 0, 0)
    top, left = (canvas_height - resized_height) // 2, (canvas_width - resized_width) // 2
    return Placement(resized_height, resized_width, top, left)


def num_image_tokens(num_tiles: int, num_image_tokens_per_tile: int) -> int:
    """Sequence positions that an image of `num_tiles` tiles takes.

    Every tile passes encoder and connector alone and makes the same number of tokens; MM1 uses no
    tokens between or around tiles.

    >>> num_image_tokens(5, 144)
    720

    Source: MM1, arXiv 2403.09611, section 4 (720 tokens for five tiles of 144).
    """
    return num_tiles * num_image_tokens_per_tile


def require_name(parameter: str, value: object, known: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `value` is one of the `known` names of `parameter`."""
    if value not in known:
        raise ValueError(
            f"{parameter} is {value!r}, but it must be one of: {', '.join(map(repr, known))}."
        )


def _round_ratio(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _positive(name: str, value: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(
            f"The {name} must be a whole number of pixels, but it is {value!r}."
        ) from None
    if value < 1:
        raise ValueError(f"The {name} must be at least one pixel, but it is {value}.")
    return value
