"""Laws of samples: tokens with their markers, and a budget that takes tiles, never tokens."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_hf.model import sample_plan_mm1
from mm1_hf.model.sample_plan_mm1 import (
    INDEX_TOKENS,
    MARKERS,
    count_image_tokens,
    image_layout,
    image_text,
    plan_sample,
)
from mm1_hf.model.tiling_mm1 import TILINGS, plan_tiles

from .processors import TOKENS_PER_TILE, picture, placeholders

SIZE = {"tile_height": 28, "tile_width": 28, "tokens_per_tile": 9}

image_sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000)) | st.sampled_from(
    [(1, 1), (20_000, 100), (100, 20_000)]
)
samples = st.lists(image_sizes, max_size=5)


def dynamic(rows: int, cols: int):
    return plan_tiles(rows, cols, tile_height=1, tile_width=1, tiling="dynamic", min_tiles=2)


def test_worked_examples_in_docstrings_hold():
    assert doctest.testmod(sample_plan_mm1).failed == 0


# Markers


@given(image_sizes, st.sampled_from(TILINGS), st.sampled_from(MARKERS), st.integers(0, 31))
def test_tokens_counted_are_tokens_written(size, tiling, markers, image):
    plan = plan_tiles(*size, tile_height=28, tile_width=28, tiling=tiling)
    layout = image_layout(plan, image=image, markers=markers)
    assert layout.count(None) == plan.num_tiles
    text = image_text(plan, image_token="#", tokens_per_tile=9, image=image, markers=markers)
    count = count_image_tokens(plan, tokens_per_tile=9, image=image, markers=markers)
    assert count == text.count("#") + text.count("<")
    if plan.num_tiles == 1 or markers == "none":
        assert set(layout) == {None}


def test_an_index_gives_image_row_and_column_and_the_overview_zeros():
    layout = image_layout(dynamic(2, 3), image=5, markers="index")
    found = [tuple(layout[n : n + 3]) for n in range(0, len(layout), 4)]
    places = [(row, col) for row in (1, 2) for col in (1, 2, 3)] + [(0, 0)]
    assert found == [(INDEX_TOKENS[5], INDEX_TOKENS[r], INDEX_TOKENS[c]) for r, c in places]


def test_separators_part_columns_and_rows_and_announce_the_overview():
    layout = image_layout(dynamic(2, 2), markers="separators")
    assert layout == (
        *(None, "<next_column>", None, "<next_row>", None, "<next_column>", None),
        *("<overview>", None),
    )
    static = plan_tiles(9, 9, tile_height=3, tile_width=3, tiling="static")
    assert image_layout(static, markers="separators")[:4] == (
        *("<overview>", None, None, "<next_column>"),
    )


def test_an_index_beyond_the_tokens_is_refused():
    sizes = [(56, 56)] * 33
    plan_sample(sizes[:32], tiling="static", markers="index", **SIZE)
    with pytest.raises(ValueError, match=r"Row 7, image 32: its number .* is 32, but .* up to 31"):
        plan_sample(sizes, tiling="static", markers="index", name="row 7", **SIZE)
    plan_sample(sizes, tiling="none", markers="index", **SIZE)  # one tile each: nothing to mark


# Samples and budgets


@given(samples, st.sampled_from(TILINGS), st.sampled_from(MARKERS), st.integers(0, 500))
def test_a_budget_is_kept_or_refused_and_never_cuts_tokens(sizes, tiling, markers, budget):
    settings = SIZE | {"tiling": tiling, "markers": markers}
    free = plan_sample(sizes, **settings)
    fewest = 9 * len(sizes)
    if budget < fewest:
        with pytest.raises(ValueError, match=f"at least {fewest} as one tile each, .* is {budget}"):
            plan_sample(sizes, max_image_tokens=budget, **settings)
        return
    plan = plan_sample(sizes, max_image_tokens=budget, **settings)
    assert sum(plan.num_tokens) <= budget
    lowered = {entry.image: entry for entry in plan.lowered}
    for image, (before, after) in enumerate(zip(free.num_tiles, plan.num_tiles, strict=True)):
        assert after <= before and (image in lowered) == (after < before)
    assert all(
        (e.wanted, e.given) == (free.num_tiles[i], plan.num_tiles[i]) for i, e in lowered.items()
    )
    if sum(free.num_tokens) <= budget:
        assert plan == free


@given(samples, st.sampled_from(TILINGS), st.integers(45, 500))
def test_a_plan_is_made_again_from_its_numbers_of_tiles(sizes, tiling, budget):
    plan = plan_sample(sizes, tiling=tiling, max_image_tokens=budget, **SIZE)
    again = plan_sample(sizes, tiling=tiling, max_tiles=plan.max_tiles, **SIZE)
    assert again.tiles == plan.tiles and again.num_tokens == plan.num_tokens


def test_the_largest_grid_is_lowered_first_and_of_equals_the_earliest():
    sizes = [(56, 56), (84, 84), (84, 84)]  # grids of 4, 9 and 9
    free = {"tiling": "dynamic", "max_split_images": 3, **SIZE}
    steps = []
    for budget in range(9 * 25, 9 * 3 - 1, -1):
        tiles = plan_sample(sizes, max_image_tokens=budget, **free).num_tiles
        if not steps or steps[-1] != tiles:
            steps.append(tiles)
    assert steps == [(5, 10, 10), (5, 5, 10), (5, 5, 5), (1, 5, 5), (1, 1, 5), (1, 1, 1)]


def test_dynamic_grids_shrink_step_by_step_and_static_ones_at_once():
    size = [(28, 28 * 9)]
    steps = {
        tiling: sorted(
            {
                plan_sample(size, tiling=tiling, max_image_tokens=budget, **SIZE).num_tiles[0]
                for budget in range(9, 100)
            }
        )
        for tiling in ("dynamic", "static")
    }
    assert steps == {"dynamic": [1, 5, 6, 7, 8, 9, 10], "static": [1, 5]}


def test_numbers_per_image_must_fit_the_images():
    with pytest.raises(ValueError, match="Row 3: max_tiles gives 1 numbers for 2 images"):
        plan_sample([(9, 9)] * 2, max_tiles=[1], name="row 3", **SIZE)
    with pytest.raises(ValueError, match="Row 3, image 1: The image width must be at least one"):
        plan_sample([(9, 9), (9, 0)], name="row 3", **SIZE)


# Through the processor


@settings(max_examples=15)
@given(st.lists(samples, min_size=1, max_size=3), st.integers(20, 120))
def test_the_processor_makes_what_fits_and_says_so(budgeted, batch, budget):
    output = budgeted(
        text=["<image>" * len(sizes) for sizes in batch],
        images=[[picture(*size) for size in sizes] for sizes in batch],
        max_image_tokens=budget,
        return_image_plans=True,
        padding=True,
        return_tensors="pt",
    )
    plans = [budgeted.plan(sizes, max_image_tokens=budget) for sizes in batch]
    if any(batch):
        assert output["image_plans"] == plans
        assert len(output["pixel_values"]) == sum(sum(plan.num_tiles) for plan in plans)
    for row, mask, plan in zip(output["input_ids"], output["attention_mask"], plans, strict=True):
        assert int(mask.sum()) == sum(plan.num_tokens) <= budget
        assert placeholders(budgeted, row) == TOKENS_PER_TILE * sum(plan.num_tiles)


@pytest.fixture(scope="module")
def budgeted(make_processor):
    return make_processor(tiling="dynamic", markers="index")


def test_plans_go_nowhere_unless_asked_for(budgeted):
    output = budgeted(text="<image>", images=picture(56, 56), max_image_tokens=10)
    assert set(output) == {"input_ids", "attention_mask", "pixel_values"}
    asked = budgeted(
        text="<image>", images=picture(56, 56), return_image_plans=True, return_tensors="pt"
    )
    assert asked.to("cpu")["image_plans"][0].lowered == ()


def test_a_budget_too_small_names_the_sample(budgeted):
    with pytest.raises(ValueError, match="Sample 1: its 2 images take 70 tokens, and at least 8 "):
        budgeted(
            text=["a", "<image><image>"],
            images=[[], [picture(56, 56), picture(56, 56)]],
            max_image_tokens=7,
        )


def test_what_was_lowered_is_logged(budgeted, monkeypatch):
    from mm1_hf.model import processing_mm1

    lines = []
    monkeypatch.setattr(processing_mm1.logger, "info", lines.append)
    budgeted(text="<image>", images=picture(84, 84), max_image_tokens=40)
    assert lines == ["Sample 0: fewer tiles for max_image_tokens: image 0 from 10 to 5 tiles."]
