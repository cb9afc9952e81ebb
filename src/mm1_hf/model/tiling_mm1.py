"""Which tiles an image becomes, where they lie, and how many tokens that makes.

Pure integers: no image, no tensor. The image processor, the processor, the packer, the planner and
serving engines all call these functions, so a count can be wrong in one place only.

Letters: an image of height x width pixels is resized onto a *canvas*, and the canvas is cut into
rows x cols *tiles* of one size; the *overview* is one more tile that shows the whole image.
"""

import operator
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

Tiling = Literal["none", "static", "dynamic"]
ResizePolicy = Literal["stretch", "crop", "pad"]
PadPlace = Literal["center", "top_left"]
OverviewPlace = Literal["first", "last"]

TILINGS: tuple[str, ...] = get_args(Tiling)
RESIZE_POLICIES: tuple[str, ...] = get_args(ResizePolicy)
PAD_PLACES: tuple[str, ...] = get_args(PadPlace)

# Tiles of a grid, the overview not counted.
# Source: MM1.5, arXiv 2409.20566, dynamic image splitting, (n_min, n_max) of the final models.
MIN_TILES = 4
MAX_TILES = 9

# Settings of an image processor that the number and the places of tiles depend on.
TILING_SETTINGS = (
    "size",
    "do_resize",
    "tiling",
    "resize_policy",
    "pad_place",
    "min_tiles",
    "max_tiles",
    "max_split_images",
)


class Grid(NamedTuple):
    """Rows and columns of tiles on a canvas."""

    rows: int
    cols: int


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
    def grid_tiles(self) -> int:
        """Tiles of the grid, without the overview; as `max_tiles`, it gives the same plan again."""
        return self.rows * self.cols

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
    min_tiles: int = MIN_TILES,
    max_tiles: int = MAX_TILES,
) -> TilePlan:
    """Plan the tiles of an image of `height` x `width` pixels.

    - `"none"` makes one tile.
    - `"static"` is MM1's five: the whole image, then 2 x 2 tiles of it at twice the size, by rows.
    - `"dynamic"` is MM1.5's: the image is resized, padded and cut into the grid of `choose_grid`,
      row by row, and the whole image comes last. It pads, whatever `resize_policy` is.

    With `max_tiles` below 4 (static) or `min_tiles` (dynamic), the image stays one tile.

    >>> plan_tiles(480, 640, tile_height=378, tile_width=378).num_tiles
    1
    >>> plan = plan_tiles(1344, 1344, tile_height=672, tile_width=672, tiling="static")
    >>> plan.num_tiles, plan.overview_place, plan.tile_boxes[1]
    (5, 'first', Box(top=0, left=672, bottom=672, right=1344))
    >>> plan = plan_tiles(1080, 1920, tile_height=672, tile_width=672, tiling="dynamic")
    >>> plan.rows, plan.cols, plan.num_tiles, plan.overview_place
    (2, 3, 7, 'last')

    Args:
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        tile_height: Height of a tile in pixels.
        tile_width: Width of a tile in pixels.
        tiling: One of `TILINGS`.
        resize_policy: One of `RESIZE_POLICIES`; see `place_image`.
        pad_place: One of `PAD_PLACES`.
        min_tiles: Fewest tiles of a dynamic grid.
        max_tiles: Most tiles of a grid, without the overview.

    Raises:
        ValueError: If a number is smaller than one or a name is unknown.

    Source: MM1, arXiv 2403.09611, section 4; MM1.5, arXiv 2409.20566, dynamic image splitting. How
    MM1 fits aspect ratios and where MM1.5 pads is not public: `resize_policy` and `pad_place`.
    """
    height, width = _positive("image height", height), _positive("image width", width)
    names = {"tile_height": tile_height, "tile_width": tile_width}
    tile = {name: _positive(name, side) for name, side in names.items()}
    min_tiles = _positive("min_tiles", min_tiles, unit="tile")
    max_tiles = _positive("max_tiles", max_tiles, unit="tile")
    require_name("tiling", tiling, TILINGS)
    grid = Grid(1, 1)
    if tiling == "static" and max_tiles >= 4:
        grid = Grid(2, 2)
    elif tiling == "dynamic":
        grid = choose_grid(height, width, min_tiles=min_tiles, max_tiles=max_tiles, **tile)

    def place(rows: int, cols: int) -> Placement:
        return place_image(
            height,
            width,
            canvas_height=rows * tile["tile_height"],
            canvas_width=cols * tile["tile_width"],
            resize_policy="pad" if tiling == "dynamic" else resize_policy,
            pad_place=pad_place,
        )

    has_overview = grid != (1, 1)
    return TilePlan(
        height=height,
        width=width,
        rows=grid.rows,
        cols=grid.cols,
        canvas=place(*grid),
        overview=place(1, 1) if has_overview else None,
        overview_place=("first" if tiling == "static" else "last") if has_overview else None,
        **tile,
    )


@lru_cache(maxsize=256)
def candidate_grids(min_tiles: int = MIN_TILES, max_tiles: int = MAX_TILES) -> tuple[Grid, ...]:
    """All grids of at least `min_tiles` and at most `max_tiles` tiles.

    >>> len(candidate_grids(4, 9))
    18
    """
    return tuple(
        Grid(rows, cols)
        for rows in range(1, max_tiles + 1)
        for cols in range(1, max_tiles // rows + 1)
        if rows * cols >= min_tiles
    )


def choose_grid(
    height: int,
    width: int,
    *,
    tile_height: int,
    tile_width: int,
    min_tiles: int = MIN_TILES,
    max_tiles: int = MAX_TILES,
) -> Grid:
    """Choose the grid of tiles for an image: MM1.5's dynamic image splitting.

    For a grid of rows x cols tiles of side r, the image is scaled until its longer side is as long
    as the longer side of the grid: s = max(rows, cols) * r / max(height, width). The grid is
    feasible if the scaled image fits into it.

    1. Of the feasible grids with s >= 1, the one with the least padding,
       rows * cols * r**2 - (s * height) * (s * width).
    2. If there is none, the feasible grid with the largest s; of several, the least padding.

    Grids that are still equal differ in their number of tiles: the smaller one is taken (our
    choice). A tile that is not square is made so by measuring the image in tiles (our choice).

    >>> choose_grid(480, 640, tile_height=672, tile_width=672)
    Grid(rows=2, cols=2)
    >>> choose_grid(2532, 1170, tile_height=672, tile_width=672)
    Grid(rows=4, cols=2)
    >>> choose_grid(6048, 672, tile_height=672, tile_width=672)
    Grid(rows=9, cols=1)

    Args:
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        tile_height: Height of a tile in pixels.
        tile_width: Width of a tile in pixels.
        min_tiles: Fewest tiles of the grid.
        max_tiles: Most tiles of the grid; if smaller than `min_tiles`, the grid is 1 x 1.

    Source: MM1.5, arXiv 2409.20566, dynamic image splitting, read literally.
    """
    if max_tiles < min_tiles:
        return Grid(1, 1)
    # The longer and the shorter side in tiles, brought to the common denominator of both.
    across, down = width * tile_height, height * tile_width
    is_wide = across >= down
    if is_wide:
        needed, ratio = -(-width // tile_width), down / across
    else:
        needed, ratio = -(-height // tile_height), across / down
    table = _grid_table(min(needed, max_tiles + 1), min_tiles, max_tiles)
    # Twice the number of borders below the ratio, plus one where it lies on a border. Floats are
    # exact enough: two different ratios of pixels are never the same float.
    place = bisect_left(table.borders, ratio) + bisect_right(table.borders, ratio)
    return table.wide[place] if is_wide else table.tall[place]


class _GridTable(NamedTuple):
    """The chosen grids by the ratio of the shorter to the longer side.

    Between two neighbouring `borders` the choice is the same; on a border it may differ. So
    `wide[2 * n]` holds below border n and `wide[2 * n + 1]` on it; `tall` is the same turned by 90
    degrees.
    """

    borders: tuple[float, ...]
    wide: tuple[Grid, ...]
    tall: tuple[Grid, ...]


@lru_cache(maxsize=1024)
def _grid_table(needed: int, min_tiles: int, max_tiles: int) -> _GridTable:
    """Evaluate the rule once for all wide images whose width is `needed` tiles, rounded up.

    What the rule compares are straight lines over the ratio, so its choice can only change where a
    grid becomes feasible or two lines cross.
    """
    grids = candidate_grids(min_tiles, max_tiles)
    borders = {Fraction(g.rows, other.cols) for g in grids for other in grids}
    columns = {(g.rows * g.cols, g.cols) for g in grids if g.rows <= g.cols}
    borders |= {
        Fraction(tiles - other_tiles, cols**2 - other_cols**2)
        for tiles, cols in columns
        for other_tiles, other_cols in columns
        if cols != other_cols
    }
    inner = sorted(border for border in borders if 0 < border < 1)
    edges = [Fraction(0), *inner, Fraction(1)]
    chosen: list[Grid] = []
    for low, high in pairwise(edges):
        chosen.append(_apply_rule((low + high) / 2, needed, grids))
        chosen.append(_apply_rule(high, needed, grids))
    # A border at which nothing changes is no border.
    kept = [n for n in range(len(inner)) if len(set(chosen[2 * n : 2 * n + 3])) > 1]
    wide = [chosen[0]]
    for n in kept:
        wide += chosen[2 * n + 1 : 2 * n + 3]
    return _GridTable(
        borders=(*(float(inner[n]) for n in kept), 1.0),
        wide=(*wide, chosen[-1]),
        tall=tuple(Grid(grid.cols, grid.rows) for grid in (*wide, chosen[-1])),
    )


def _apply_rule(ratio: Fraction, needed: int, grids: tuple[Grid, ...]) -> Grid:
    """Choose the grid for wide images of height / width = `ratio`, literally; see `choose_grid`."""
    up, over = ratio.numerator, ratio.denominator
    # A wide image touches both sides of a feasible grid that is at least as wide as high.
    feasible = [g for g in grids if g.rows <= g.cols and g.cols * up <= g.rows * over]

    def padding(grid: Grid) -> int:
        return grid.rows * grid.cols * over - grid.cols**2 * up

    enlarging = [grid for grid in feasible if grid.cols >= needed]
    if enlarging:
        return min(enlarging, key=lambda grid: (padding(grid), grid.rows * grid.cols))
    if feasible:
        return min(feasible, key=lambda grid: (-grid.cols, padding(grid)))
    # No square grid is allowed, and the image is nearly square: where it fits in largest (ours).
    largest = max(min(grid.rows * over, grid.cols * up) for grid in grids)
    fitting = [g for g in grids if min(g.rows * over, g.cols * up) == largest]
    return min(fitting, key=lambda grid: (grid.rows * grid.cols, grid.rows))


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
    """Placeholders of an image of `num_tiles` tiles, without markers (see `sample_plan_mm1`).

    Every tile passes encoder and connector alone and makes the same number of tokens.

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


def _positive(name: str, value: int, *, unit: str = "pixel") -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(
            f"The {name} must be a whole number of {unit}s, but it is {value!r}."
        ) from None
    if value < 1:
        raise ValueError(f"The {name} must be at least one {unit}, but it is {value}.")
    return value
