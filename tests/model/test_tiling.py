"""Laws of the tile geometry."""

import doctest
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_hf.model import tiling_mm1
from mm1_hf.model.tiling_mm1 import (
    PAD_PLACES,
    RESIZE_POLICIES,
    TILINGS,
    candidate_grids,
    choose_grid,
    num_image_tokens,
    place_image,
    plan_tiles,
)

sides = st.integers(1, 3000) | st.integers(1, 3) | st.just(20_000)
tile_sides = st.integers(1, 700)
policies = st.sampled_from(RESIZE_POLICIES)


def test_worked_examples_in_docstrings_hold():
    assert doctest.testmod(tiling_mm1).failed == 0


def test_static_tiling_of_1344_px_takes_720_tokens():
    plan = plan_tiles(1344, 1344, tile_height=672, tile_width=672, tiling="static")
    assert num_image_tokens(plan.num_tiles, 144) == 720
    assert plan.overview_place == "first"
    assert plan.overview == (672, 672, 0, 0)


@given(sides, sides, tile_sides, tile_sides, st.sampled_from(TILINGS), policies)
def test_tiles_cover_the_canvas_once_row_by_row(
    height, width, tile_height, tile_width, tiling, policy
):
    plan = plan_tiles(
        height,
        width,
        tile_height=tile_height,
        tile_width=tile_width,
        tiling=tiling,
        resize_policy=policy,
    )
    boxes = plan.tile_boxes
    assert boxes == tuple(sorted(set(boxes)))
    assert {(b.bottom - b.top, b.right - b.left) for b in boxes} == {(tile_height, tile_width)}
    assert len(boxes) * tile_height * tile_width == plan.canvas_height * plan.canvas_width
    assert max(boxes)[2:] == (plan.canvas_height, plan.canvas_width)
    assert plan.num_tiles == len(boxes) + (plan.overview is not None)


@given(sides, sides, tile_sides, tile_sides)
def test_stretch_fills_the_canvas(height, width, canvas_height, canvas_width):
    placement = place_image(height, width, canvas_height=canvas_height, canvas_width=canvas_width)
    assert placement == (canvas_height, canvas_width, 0, 0)


@given(sides, sides, tile_sides, tile_sides)
def test_crop_covers_the_canvas_and_touches_two_sides(height, width, canvas_height, canvas_width):
    placed = place_image(
        height,
        width,
        canvas_height=canvas_height,
        canvas_width=canvas_width,
        resize_policy="crop",
    )
    assert placed.height >= canvas_height and placed.width >= canvas_width
    assert placed.height == canvas_height or placed.width == canvas_width
    assert -placed.top == (placed.height - canvas_height) // 2
    assert -placed.left == (placed.width - canvas_width) // 2


@given(sides, sides, tile_sides)
def test_crop_to_a_square_is_transformers_clip(height, width, size):
    short, long = min(height, width), max(height, width)
    placed = place_image(height, width, canvas_height=size, canvas_width=size, resize_policy="crop")
    assert (min(placed[:2]), max(placed[:2])) == (size, int(size * long / short))


@given(sides, sides, tile_sides, tile_sides, st.sampled_from(PAD_PLACES))
def test_pad_fits_into_the_canvas_and_keeps_the_ratio(
    height, width, canvas_height, canvas_width, place
):
    placed = place_image(
        height,
        width,
        canvas_height=canvas_height,
        canvas_width=canvas_width,
        resize_policy="pad",
        pad_place=place,
    )
    assert 1 <= placed.height <= canvas_height and 1 <= placed.width <= canvas_width
    assert placed.height == canvas_height or placed.width == canvas_width
    scale = min(canvas_height / height, canvas_width / width)
    assert abs(placed.height - max(1, height * scale)) <= 0.5 + 1e-6
    assert abs(placed.width - max(1, width * scale)) <= 0.5 + 1e-6
    assert 0 <= placed.top <= canvas_height - placed.height
    assert 0 <= placed.left <= canvas_width - placed.width
    if place == "top_left":
        assert placed[2:] == (0, 0)


# Dynamic tiling


def choose_literally(height, width, side, min_tiles, max_tiles):
    """MM1.5's rule as its paper states it, over all grids."""
    grids = [
        (rows, cols)
        for rows in range(1, max_tiles + 1)
        for cols in range(1, max_tiles + 1)
        if min_tiles <= rows * cols <= max_tiles
    ]

    def scale(grid):
        return Fraction(max(grid) * side, max(height, width))

    def padding(grid):
        return grid[0] * grid[1] * side**2 - scale(grid) ** 2 * height * width

    feasible = [
        grid
        for grid in grids
        if scale(grid) * height <= grid[0] * side and scale(grid) * width <= grid[1] * side
    ]
    enlarging = [grid for grid in feasible if scale(grid) >= 1]
    if enlarging:
        return min(enlarging, key=lambda grid: (padding(grid), grid[0] * grid[1]))
    return min(feasible, key=lambda grid: (-scale(grid), padding(grid)))


# Pixels, whole tiles, and squares, where choices change.
tile_counts = st.integers(1, 12)


@settings(max_examples=400)
@given(
    st.data(),
    st.sampled_from([1, 2, 28, 378, 672]),
    st.sampled_from([(4, 9), (1, 9), (4, 4), (4, 16), (9, 9), (9, 16)]),
)
def test_the_chosen_grid_is_that_of_the_literal_rule(data, side, bounds):
    lengths = st.integers(1, 12 * side) | tile_counts.map(lambda n: n * side)
    height = data.draw(lengths)
    width = data.draw(lengths | st.just(height) | tile_counts.map(lambda n: n * height))
    low, high = bounds
    chosen = choose_grid(
        height, width, tile_height=side, tile_width=side, min_tiles=low, max_tiles=high
    )
    assert chosen == choose_literally(height, width, side, low, high)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((480, 640), (2, 2)),
        ((1080, 1920), (2, 3)),
        ((1100, 850), (2, 2)),
        ((2200, 1700), (3, 3)),
        ((1344, 1344), (2, 2)),
        ((2016, 2016), (3, 3)),
        ((6048, 672), (9, 1)),
        ((2532, 1170), (4, 2)),
    ],
)
def test_published_pictures_get_their_grids(size, grid):
    assert choose_grid(*size, tile_height=672, tile_width=672) == grid
    plan = plan_tiles(*size, tile_height=672, tile_width=672, tiling="dynamic")
    assert plan.num_tiles == grid[0] * grid[1] + 1 and plan.overview_place == "last"


def test_four_to_nine_tiles_make_18_grids():
    assert len(candidate_grids()) == len(set(candidate_grids())) == 18


@given(sides, sides, tile_sides, tile_sides, st.sampled_from([(4, 9), (1, 9), (5, 8), (2, 3)]))
def test_dynamic_tiles_show_the_whole_image_as_large_as_the_canvas_allows(
    height, width, tile_height, tile_width, bounds
):
    plan = plan_tiles(
        height,
        width,
        tile_height=tile_height,
        tile_width=tile_width,
        tiling="dynamic",
        resize_policy="crop",  # is of no consequence
        min_tiles=bounds[0],
        max_tiles=bounds[1],
    )
    assert bounds[0] <= plan.grid_tiles <= bounds[1]
    assert (plan.overview is None) == (plan.grid_tiles == 1)
    placed = plan.canvas
    assert placed.height == plan.canvas_height or placed.width == plan.canvas_width
    assert placed.top >= 0 and placed.top + placed.height <= plan.canvas_height
    assert placed.left >= 0 and placed.left + placed.width <= plan.canvas_width


@given(sides, sides, st.integers(1, 12))
def test_a_turned_image_gets_the_turned_grid(height, width, max_tiles):
    bounds = {"tile_height": 378, "tile_width": 378, "max_tiles": max_tiles}
    assert choose_grid(height, width, **bounds) == choose_grid(width, height, **bounds)[::-1]


@given(sides, sides, tile_sides, st.integers(1, 12), st.sampled_from(["static", "dynamic"]))
def test_as_many_tiles_as_there_are_make_the_same_plan_again(
    height, width, side, max_tiles, tiling
):
    settings = {"tile_height": side, "tile_width": side, "tiling": tiling}
    plan = plan_tiles(height, width, max_tiles=max_tiles, **settings)
    assert plan.grid_tiles <= max_tiles
    assert plan_tiles(height, width, max_tiles=plan.grid_tiles, **settings) == plan


def test_an_image_that_may_not_be_cut_is_one_tile():
    for tiling, most in (("static", 3), ("dynamic", 3), ("dynamic", 1)):
        plan = plan_tiles(50, 100, tile_height=10, tile_width=10, tiling=tiling, max_tiles=most)
        assert plan.num_tiles == 1 and plan.overview is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "image height must be at least one pixel, but it is 0"),
        ({"width": 2.5}, "image width must be a whole number of pixels, but it is 2.5"),
        ({"tile_width": -1}, "tile_width must be at least one pixel, but it is -1"),
        (
            {"tiling": "quarters"},
            "tiling is 'quarters', but it must be one of: 'none', 'static', 'dynamic'",
        ),
        ({"max_tiles": 0}, "max_tiles must be at least one tile, but it is 0"),
        ({"tiling": "dynamic", "min_tiles": 0}, "min_tiles must be at least one tile"),
        ({"resize_policy": "fit"}, "resize_policy is 'fit', but it must be one of"),
        ({"resize_policy": "pad", "pad_place": "left"}, "pad_place is 'left'"),
    ],
)
def test_wrong_values_are_named(change, message):
    settings = {"height": 10, "width": 10, "tile_height": 4, "tile_width": 4} | change
    height, width = settings.pop("height"), settings.pop("width")
    with pytest.raises(ValueError, match=message):
        plan_tiles(height, width, **settings)
