"""Where regions lie on tiles: image coordinates to tile coordinates and back.

Every tile shows a part of the image, enlarged or reduced. That is one `TileView` per tile, made
from a `TilePlan`, in the order in which the tiles of an image stand in `pixel_values`.

Which tile has a point that lies on the border of two? A tile owns its left and upper edge, not its
right and lower one, except where the image ends: so every visible point lies in exactly one tile
(and once more in the overview, if there is one).
"""

from dataclasses import dataclass
from typing import Literal, overload

from mm1_hf.grounding.regions import Box, Point
from mm1_hf.model.tiling_mm1 import Box as CanvasBox
from mm1_hf.model.tiling_mm1 import Placement, TilePlan

TileKind = Literal["tile", "overview"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One axis of a view. The canvas is what all tiles are cut from; see `TilePlan`.

    `size` pixels of the image become `resized` pixels from `offset` on the canvas; the tile begins
    at `origin` and shows the image from `lower` to `upper` on the canvas.
    """

    size: int
    resized: int
    offset: int
    origin: int
    lower: int
    upper: int
    owns_upper: bool

    def to_canvas(self, value: float) -> float:
        # In this order the edges of the image meet the canvas without a rounding error.
        return value * self.resized / self.size + self.offset

    def to_image(self, value: float) -> float:
        return (value + self.origin - self.offset) * self.size / self.resized

    def shows(self, value: float) -> bool:
        on_canvas = self.to_canvas(value)
        return self.lower <= on_canvas < self.upper or (
            self.owns_upper and self.lower <= on_canvas == self.upper
        )

    def clip(self, start: float, end: float) -> tuple[float, float] | None:
        """The shown part of an interval, on the tile; an interval without length is a point."""
        if start == end and not self.shows(start):
            return None
        first = max(self.to_canvas(start), self.lower)
        last = min(self.to_canvas(end), self.upper)
        if first > last or (first == last and start != end):
            return None
        return first - self.origin, last - self.origin


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """What one tile shows of the image.

    Attributes:
        index: Place of the tile among the tiles of its image, as in `pixel_values`.
        kind: `"tile"`, or `"overview"` for the tile that shows the whole image.
    """

    index: int
    kind: TileKind
    _x: _Axis
    _y: _Axis

    @property
    def visible(self) -> Box | None:
        """The part of the image on this tile, in image pixels; `None` if it is all padding."""
        x, y = self._x, self._y
        if x.lower >= x.upper or y.lower >= y.upper:
            return None
        return Box(
            left=x.to_image(x.lower - x.origin),
            top=y.to_image(y.lower - y.origin),
            right=x.to_image(x.upper - x.origin),
            bottom=y.to_image(y.upper - y.origin),
        )

    def shows(self, point: Point) -> bool:
        """Whether the point lies in this tile; on a border one tile has it, not both."""
        return self._x.shows(point.x) and self._y.shows(point.y)

    @overload
    def to_tile(self, region: Point) -> Point | None: ...
    @overload
    def to_tile(self, region: Box) -> Box | None: ...
    def to_tile(self, region: Box | Point) -> Box | Point | None:
        """Image pixels to tile pixels: the part on this tile, or `None` if none is.

        A box that merely touches the tile has no part on it.
        """
        if isinstance(region, Point):
            if not self.shows(region):
                return None
            return Point(
                x=self._x.to_canvas(region.x) - self._x.origin,
                y=self._y.to_canvas(region.y) - self._y.origin,
            )
        x = self._x.clip(region.left, region.right)
        y = self._y.clip(region.top, region.bottom)
        if x is None or y is None:
            return None
        return Box(left=x[0], top=y[0], right=x[1], bottom=y[1])

    @overload
    def to_image(self, region: Point) -> Point: ...
    @overload
    def to_image(self, region: Box) -> Box: ...
    def to_image(self, region: Box | Point) -> Box | Point:
        """Tile pixels to image pixels.

        What lies on padding has no place on the image: its coordinates come out below 0 or above
        the image's size. `Box.clip` cuts them.
        """
        if isinstance(region, Point):
            return Point(x=self._x.to_image(region.x), y=self._y.to_image(region.y))
        return Box(
            left=self._x.to_image(region.left),
            top=self._y.to_image(region.top),
            right=self._x.to_image(region.right),
            bottom=self._y.to_image(region.bottom),
        )


def tile_views(plan: TilePlan) -> tuple[TileView, ...]:
    """The views of all tiles of an image, in the order of `pixel_values`.

    >>> from mm1_hf.model.tiling_mm1 import plan_tiles
    >>> plan = plan_tiles(400, 400, tile_height=100, tile_width=100, tiling="static")
    >>> overview, *tiles = tile_views(plan)
    >>> overview.to_tile(Point(x=300, y=100))
    Point(x=75.0, y=25.0)
    >>> tuple(tile.to_tile(Point(x=300, y=100)) for tile in tiles)
    (None, Point(x=50.0, y=50.0), None, None)

    Args:
        plan: From `plan_tiles`, `MM1ImageProcessor.plan` or `MM1Processor.plan(…).tiles`.
    """
    cuts: list[tuple[TileKind, Placement, CanvasBox]] = [
        ("tile", plan.canvas, cut) for cut in plan.tile_boxes
    ]
    if plan.overview is not None:
        whole = CanvasBox(0, 0, plan.tile_height, plan.tile_width)
        place = 0 if plan.overview_place == "first" else len(cuts)
        cuts.insert(place, ("overview", plan.overview, whole))
    return tuple(
        _view(index, kind, plan=plan, placement=placement, cut=cut)
        for index, (kind, placement, cut) in enumerate(cuts)
    )


def find_tile(point: Point, plan: TilePlan) -> TileView | None:
    """The one tile, the overview aside, that shows a point of the image.

    `None` if the point is not shown: beyond the image, or cut off by `resize_policy="crop"`.
    """
    tiles = (view for view in tile_views(plan) if view.kind == "tile")
    return next((view for view in tiles if view.shows(point)), None)


def _view(
    index: int, kind: TileKind, *, plan: TilePlan, placement: Placement, cut: CanvasBox
) -> TileView:
    canvas_height, canvas_width = plan.canvas_height, plan.canvas_width
    if kind == "overview":
        canvas_height, canvas_width = plan.tile_height, plan.tile_width
    x = _axis(
        size=plan.width,
        resized=placement.width,
        offset=placement.left,
        start=cut.left,
        end=cut.right,
        canvas=canvas_width,
    )
    y = _axis(
        size=plan.height,
        resized=placement.height,
        offset=placement.top,
        start=cut.top,
        end=cut.bottom,
        canvas=canvas_height,
    )
    return TileView(index=index, kind=kind, _x=x, _y=y)


def _axis(*, size: int, resized: int, offset: int, start: int, end: int, canvas: int) -> _Axis:
    last_shown = min(offset + resized, canvas)
    lower, upper = max(start, offset), min(end, last_shown)
    return _Axis(
        size=size,
        resized=resized,
        offset=offset,
        origin=start,
        lower=lower,
        upper=upper,
        owns_upper=lower < upper == last_shown,
    )


__all__ = ["TileKind", "TileView", "find_tile", "tile_views"]
