import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.grounding import (
    FERRET,
    SHIKRA,
    Box,
    CoordinateFormat,
    Point,
    find_regions,
    format_box,
    format_boxes,
    format_point,
    format_points,
    parse_boxes,
    parse_points,
)

TALL_FIRST = CoordinateFormat(axis_order="yx", opening="<box>", closing="</box>", separator=" | ")
FORMATS = [FERRET, SHIKRA, TALL_FIRST, CoordinateFormat(grid=7, decimals=2)]

sides = st.integers(1, 20000)
shares = st.floats(0, 1)


@pytest.mark.parametrize("coordinate_format", FORMATS)
@given(height=sides, width=sides, corners=st.tuples(shares, shares, shares, shares))
def test_a_box_comes_back_within_half_a_grid_step(coordinate_format, height, width, corners):
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(left=left * width, right=right * width, top=top * height, bottom=bottom * height)
    sizes = {"height": height, "width": width, "coordinate_format": coordinate_format}
    text = f"Look: {format_box(box, **sizes)}!"
    (again,) = parse_boxes(text, **sizes)
    half = (0.5 + 1e-6) * coordinate_format.step
    assert abs(again.left - box.left) <= half * width
    assert abs(again.right - box.right) <= half * width
    assert abs(again.top - box.top) <= half * height
    assert abs(again.bottom - box.bottom) <= half * height
    assert format_box(again, **sizes) == format_box(box, **sizes), "written twice, written alike"


@pytest.mark.parametrize("coordinate_format", FORMATS)
@given(height=sides, width=sides, x=shares, y=shares)
def test_a_point_comes_back_within_half_a_grid_step(coordinate_format, height, width, x, y):
    sizes = {"height": height, "width": width, "coordinate_format": coordinate_format}
    point = Point(x=x * width, y=y * height)
    (again,) = parse_points(format_point(point, **sizes), **sizes)
    half = (0.5 + 1e-6) * coordinate_format.step
    assert abs(again.x - point.x) <= half * width
    assert abs(again.y - point.y) <= half * height


def test_ferrets_form_is_whole_numbers_of_a_thousand():
    box = Box(left=0, top=120.24, right=320, bottom=480)
    assert format_box(box, height=480, width=640) == "[0, 251, 500, 1000]"
    assert format_point(Point(x=640, y=0), height=480, width=640) == "[1000, 0]"


def test_shikras_form_is_shares_with_three_decimals():
    box = Box(left=0, top=120, right=320, bottom=480)
    written = format_box(box, height=480, width=640, coordinate_format=SHIKRA)
    assert written == "[0.000,0.250,0.500,1.000]"


def test_vertical_first_swaps_each_corner():
    box = Box(left=64, top=48, right=320, bottom=480)
    written = format_box(box, height=480, width=640, coordinate_format=TALL_FIRST)
    assert written == "<box>100 | 100 | 1000 | 500</box>"


def test_several_regions_are_read_in_the_order_they_are_written():
    sizes = {"height": 100, "width": 100}
    boxes = [Box(left=at, top=0, right=at + 10, bottom=5) for at in (50, 10, 30)]
    points = [Point(x=at, y=2) for at in (7, 3)]
    text = f"{format_boxes(boxes, **sizes)}; {format_points(points, **sizes, separator=' and ')}"
    assert parse_boxes(text, **sizes) == boxes
    assert parse_points(text, **sizes) == points


@pytest.mark.parametrize(
    "text", ["[1,2,3,4]", "[ 1 , 2\n,3,   4 ]", "[+1, 2.0, 3., 004]", "[[1, 2, 3, 4]]"]
)
def test_spaces_signs_and_decimals_do_not_matter(text):
    expected = Box(left=1, top=2, right=3, bottom=4)
    assert parse_boxes(text, height=1000, width=1000) == [expected]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[1, 2, 3, 4", ("malformed",)),
        ("[1 2 3 4]", ("malformed",)),
        ("[1, 2, 3-4, 4]", ("malformed",)),
        ("[1, two, 3, 4]", ("malformed",)),
        ("[1, 2, , 4]", ("malformed",)),
        ("[1]", ("count",)),
        ("[1, 2, 3]", ("count",)),
        ("[1, 2, 3, 4, 5]", ("count",)),
        ("[1, 2, 1001, 4]", ("outside",)),
        ("[-1, 2]", ("outside",)),
        ("[3, 2, 1, 4]", ("swapped",)),
        ("[1, 4, 3, 2]", ("swapped",)),
        ("[3, 2, 1, 4000]", ("outside", "swapped")),
    ],
)
def test_a_faulty_region_is_named_and_not_used(text, faults):
    (found,) = find_regions(text, height=1000, width=1000)
    assert (found.region, found.faults) == (None, faults)
    assert parse_boxes(text, height=1000, width=1000) == []
    assert parse_points(text, height=1000, width=1000) == []


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("[3, 2, 1, 4]", Box(left=1, top=2, right=3, bottom=4)),
        ("[-5, 2, 1200, 4]", Box(left=0, top=2, right=1000, bottom=4)),
        (f"[{'9' * 400}, 2]", Point(x=1000, y=2)),
    ],
)
def test_repair_moves_to_the_edge_and_orders_corners(text, region):
    (found,) = find_regions(text, height=1000, width=1000, faulty="repair")
    assert found.region == region
    assert found.faults


def test_repair_invents_no_numbers():
    for text in ("[1, 2, 3]", "[1, 2, 3, 4", "[a, 1, 2, 3]"):
        regions = [found.region for found in find_regions(text, height=9, width=9, faulty="repair")]
        assert regions in ([], [None])


def test_spans_point_at_what_was_found():
    text = "A cat [10, 20, 30, 40] sees [oh] a dot [5, 6], not [7, 8, 9]."
    found = find_regions(text, height=1000, width=1000)
    assert [text[entry.start : entry.end] for entry in found] == [
        "[10, 20, 30, 40]",
        "[5, 6]",
        "[7, 8, 9]",
    ]


@given(st.text(alphabet="[]0123456789.,+- \nx١", max_size=60))
def test_any_text_can_be_parsed(text):
    for found in find_regions(text, height=480, width=640):
        assert text[found.start] == "["
        assert (found.region is None) == bool(found.faults)


def test_a_long_answer_is_parsed_in_linear_time():
    assert find_regions("[" * 50_000 + "1, " * 50_000, height=9, width=9)[0].faults == (
        "malformed",
    )


def test_a_region_beyond_the_image_is_refused_and_the_remedy_named():
    with pytest.raises(ValueError, match=r"right=641.*480 x 640.*Box\.clip"):
        format_box(Box(left=0, top=0, right=641, bottom=9), height=480, width=640)
    with pytest.raises(ValueError, match="beyond the image"):
        format_point(Point(x=-0.1, y=0), height=480, width=640)
    inside = Box(left=0, top=0, right=641, bottom=9).clip(height=480, width=640)
    assert format_box(inside, height=480, width=640) == "[0, 0, 1000, 19]"


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": 0},
        {"decimals": -1},
        {"opening": ""},
        {"closing": " "},
        {"separator": "  "},
        {"separator": "."},
        {"opening": "box 1"},
        {"axis_order": "zx"},
        {"closing": ", ]"},
    ],
)
def test_a_form_that_could_not_be_read_again_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(FERRET, **changes)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="'reject' or 'repair'"):
        find_regions("", height=1, width=1, faulty="ignore")
