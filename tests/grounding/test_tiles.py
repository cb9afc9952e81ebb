import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from mm1_hf.grounding import Box, Point, find_tile, tile_views
from mm1_hf.model.tiling_mm1 import PAD_PLACES, RESIZE_POLICIES, TilePlan, place_image, plan_tiles

sides = st.integers(1, 5000)
shares = st.floats(0, 1)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    """Any grid of tiles, with the overview before, behind, or absent."""
    height, width, tile_height, tile_width = (draw(sides) for _ in range(4))
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    policy = draw(st.sampled_from(RESIZE_POLICIES))
    pad_place = draw(st.sampled_from(PAD_PLACES))
    overview_place = draw(st.sampled_from(["first", "last", None]))

    def place(rows: int, cols: int):
        return place_image(
            height,
            width,
            canvas_height=rows * tile_height,
            canvas_width=cols * tile_width,
            resize_policy=policy,
            pad_place=pad_place,
        )

    return TilePlan(
        height=height,
        width=width,
        tile_height=tile_height,
        tile_width=tile_width,
        rows=rows,
        cols=cols,
        canvas=place(rows, cols),
        overview=place(1, 1) if overview_place else None,
        overview_place=overview_place,
    )


@st.composite
def points_on_plans(draw: st.DrawFn) -> tuple[Point, TilePlan]:
    """A plan and a point of its image, often one on the border of a tile."""
    plan = draw(plans())
    x, y = draw(shares) * plan.width, draw(shares) * plan.height
    if draw(st.booleans()):
        col = draw(st.integers(0, plan.cols))
        x = (col * plan.tile_width - plan.canvas.left) * plan.width / plan.canvas.width
    if draw(st.booleans()):
        row = draw(st.integers(0, plan.rows))
        y = (row * plan.tile_height - plan.canvas.top) * plan.height / plan.canvas.height
    return Point(x=min(max(x, 0.0), plan.width), y=min(max(y, 0.0), plan.height)), plan


def is_on_canvas(point: Point, plan: TilePlan) -> bool:
    x = point.x * plan.canvas.width / plan.width + plan.canvas.left
    y = point.y * plan.canvas.height / plan.height + plan.canvas.top
    return 0 <= x <= plan.canvas_width and 0 <= y <= plan.canvas_height


@given(points_on_plans())
def test_every_visible_point_lies_in_exactly_one_tile(case):
    point, plan = case
    holders = [view for view in tile_views(plan) if view.kind == "tile" and view.shows(point)]
    assert len(holders) == is_on_canvas(point, plan)
    assert find_tile(point, plan) == (holders[0] if holders else None)


@given(points_on_plans())
def test_image_to_tile_to_image_is_the_identity(case):
    point, plan = case
    for view in tile_views(plan):
        on_tile = view.to_tile(point)
        if on_tile is None:
            continue
        assert 0 <= on_tile.x <= plan.tile_width
        assert 0 <= on_tile.y <= plan.tile_height
        again = view.to_image(on_tile)
        # One part in 10^9 of everything that takes part: image, canvas and offset.
        size = max(plan.width, plan.height) * max(plan.rows, plan.cols, 10) * 1e-9
        scale = max(plan.width / view._x.resized, plan.height / view._y.resized, 1.0)
        assert again.x == approx(point.x, abs=size * scale)
        assert again.y == approx(point.y, abs=size * scale)


@given(points_on_plans(), shares, shares)
def test_the_parts_of_a_box_make_up_its_visible_part(case, width, height):
    corner, plan = case
    box = Box(
        left=corner.x * width, top=corner.y * height, right=corner.x + 0.5, bottom=corner.y + 0.5
    ).clip(height=plan.height, width=plan.width)
    tiles = [view for view in tile_views(plan) if view.kind == "tile"]
    parts = [(view, view.to_tile(box)) for view in tiles]
    on_image = [view.to_image(part) for view, part in parts if part is not None]
    seen = [view.visible.intersection(box) for view in tiles if view.visible]
    expected = sum(part.width * part.height for part in seen if part is not None)
    area = sum(part.width * part.height for part in on_image)
    assert area == approx(expected, rel=1e-6, abs=1e-6 * plan.width * plan.height)


@given(plans())
def test_the_visible_parts_of_the_tiles_make_up_the_visible_image(plan):
    views = tile_views(plan)
    tiles = [view.visible for view in views if view.kind == "tile" and view.visible]
    area = sum(part.width * part.height for part in tiles)
    shown_width = min(plan.canvas.width, plan.canvas_width) * plan.width / plan.canvas.width
    shown_height = min(plan.canvas.height, plan.canvas_height) * plan.height / plan.canvas.height
    assert area == approx(shown_width * shown_height, rel=1e-6)
    assert [view.index for view in views] == list(range(plan.num_tiles))


@given(plans(), st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)]))
def test_the_corners_of_an_image_that_is_not_cut_are_visible(plan, corner):
    point = Point(x=corner[0] * plan.width, y=corner[1] * plan.height)
    cut = plan.canvas.width > plan.canvas_width or plan.canvas.height > plan.canvas_height
    assert cut or find_tile(point, plan) is not None


def test_a_border_belongs_to_the_tile_behind_it_and_the_last_edge_to_the_last_tile():
    plan = plan_tiles(400, 600, tile_height=100, tile_width=100, tiling="static")
    assert find_tile(Point(x=299.9, y=10), plan).index == 1
    assert find_tile(Point(x=300, y=10), plan).index == 2
    assert find_tile(Point(x=300, y=200), plan).index == 4
    assert find_tile(Point(x=600, y=400), plan).index == 4
    assert find_tile(Point(x=600.1, y=400), plan) is None


def test_padding_owns_no_edge_of_the_image():
    # On a canvas of 200 x 200 the image fills the left half exactly: its right edge is a border.
    plan = plan_tiles(
        400,
        200,
        tile_height=100,
        tile_width=100,
        tiling="static",
        resize_policy="pad",
        pad_place="top_left",
    )
    assert [view.visible is None for view in tile_views(plan)] == [False, False, True, False, True]
    assert find_tile(Point(x=200, y=0), plan).index == 1
    assert tile_views(plan)[2].to_tile(Box(left=0, top=0, right=200, bottom=400)) is None


def test_what_is_cut_off_has_no_tile():
    plan = plan_tiles(100, 300, tile_height=100, tile_width=100, resize_policy="crop")
    (view,) = tile_views(plan)
    assert view.visible == Box(left=100, top=0, right=200, bottom=100)
    assert view.to_tile(Point(x=99, y=50)) is None
    assert view.to_tile(Point(x=150, y=50)) == Point(x=50, y=50)
    box = Box(left=50, top=20, right=150, bottom=40)
    assert view.to_tile(box) == Box(left=0, top=20, right=50, bottom=40)
    assert view.to_tile(Box(left=50, top=20, right=100, bottom=40)) is None, "it merely touches"


def test_padding_moves_the_image_on_its_tile():
    plan = plan_tiles(50, 100, tile_height=100, tile_width=100, resize_policy="pad")
    (view,) = tile_views(plan)
    assert view.to_tile(Point(x=0, y=0)) == Point(x=0, y=25)
    assert view.to_image(Point(x=0, y=0)) == Point(x=0, y=-25)


def test_dynamic_tiles_are_seen_like_any_other():
    plan = plan_tiles(1080, 1920, tile_height=672, tile_width=672, tiling="dynamic")
    *tiles, overview = tile_views(plan)
    assert [view.kind for view in tiles] == ["tile"] * 6
    assert overview.kind == "overview"
    center = Point(x=960, y=540)
    assert overview.to_tile(center) == Point(x=336, y=336)
    view = find_tile(center, plan)
    assert view.to_image(view.to_tile(center)) == center


@pytest.mark.parametrize(("place", "index"), [("first", 0), ("last", 4)])
def test_the_overview_shows_everything_where_the_plan_puts_it(place, index):
    plan = plan_tiles(400, 800, tile_height=100, tile_width=100, tiling="static")
    plan = dataclasses.replace(plan, overview_place=place)
    view = tile_views(plan)[index]
    assert view.kind == "overview"
    assert view.visible == Box(left=0, top=0, right=800, bottom=400)
    assert view.to_tile(Point(x=800, y=100)) == Point(x=100, y=25)


def test_a_view_shows_the_pixels_that_the_image_processor_makes():
    import torch

    from mm1_hf import MM1ImageProcessor

    # One white pixel, enlarged: where it is seen is where the view says.
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[:, 5, 6] = 255
    processor = MM1ImageProcessor(size=16, tiling="static", do_rescale=False, do_normalize=False)
    tiles = processor(pixels, return_tensors="pt")["pixel_values"]
    center = Point(x=6.5, y=5.5)
    for view in tile_views(processor.plan(8, 8)):
        tile = tiles[view.index, 0].float()
        if not view.shows(center):
            assert tile.max() < 128
            continue
        on_tile = view.to_tile(center)
        rows = torch.arange(16) + 0.5
        assert (tile.sum(1) * rows).sum() / tile.sum() == approx(on_tile.y, abs=0.2)
        assert (tile.sum(0) * rows).sum() / tile.sum() == approx(on_tile.x, abs=0.2)
