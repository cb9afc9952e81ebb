"""Laws of the tile geometry."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.model import tiling_mm1
from mm1_hf.model.tiling_mm1 import (
    PAD_PLACES,
    RESIZE_POLICIES,
    TILINGS,
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "image height must be at least one pixel, but it is 0"),
        ({"width": 2.5}, "image width must be a whole number of pixels, but it is 2.5"),
        ({"tile_width": -1}, "tile_width must be at least one pixel, but it is -1"),
        ({"tiling": "quarters"}, "tiling is 'quarters', but it must be one of: 'none', 'static'"),
        ({"resize_policy": "fit"}, "resize_policy is 'fit', but it must be one of"),
        ({"resize_policy": "pad", "pad_place": "left"}, "pad_place is 'left'"),
    ],
)
def test_wrong_values_are_named(change, message):
    settings = {"height": 10, "width": 10, "tile_height": 4, "tile_width": 4} | change
    height, width = settings.pop("height"), settings.pop("width")
    with pytest.raises(ValueError, match=message):
        plan_tiles(height, width, **settings)
