import math

import pytest

from mm1_hf.grounding import Box, Point


def test_swapped_edges_are_refused():
    with pytest.raises(ValueError, match=r"swapped edges.*left \+ width"):
        Box(left=2, top=0, right=1, bottom=1)
    with pytest.raises(ValueError, match="swapped edges"):
        Box(left=0, top=2, right=1, bottom=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_place_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"Point\.y is (nan|inf)"):
        Point(x=0, y=value)
    with pytest.raises(ValueError, match=r"Box\.right is (nan|inf)"):
        Box(left=0, top=0, right=value, bottom=1)


def test_sizes_and_centre_of_a_box():
    box = Box(left=10, top=20, right=30, bottom=60)
    assert (box.width, box.height, box.center) == (20, 40, Point(x=20, y=40))


def test_clipping_keeps_what_is_on_the_picture():
    box = Box(left=-5, top=3, right=50, bottom=9)
    assert box.clip(height=8, width=20) == Box(left=0, top=3, right=20, bottom=8)
    assert box.clip(height=2, width=20) is None
