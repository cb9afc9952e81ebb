import numpy as np
import pytest
from PIL import Image, ImageFont

from mm1_hf.grounding import Box, Point, draw_regions

BOX = Box(left=20, top=30, right=80, bottom=70)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(-1)


def test_a_box_is_a_frame_that_ends_where_the_box_ends():
    grey = Image.new("RGB", (100, 100), "grey")
    rows, cols = changed(grey, draw_regions(grey, [BOX])).nonzero()
    assert (cols.min(), cols.max() + 1, rows.min(), rows.max() + 1) == (20, 80, 30, 70)
    assert not changed(grey, draw_regions(grey, [BOX]))[40:60, 30:70].any(), "the inside is free"


def test_a_point_is_a_disc_around_its_place():
    grey = Image.new("RGB", (100, 100), "grey")
    rows, cols = changed(grey, draw_regions(grey, [Point(x=50, y=25)])).nonzero()
    assert abs(cols.mean() + 0.5 - 50) <= 0.5
    assert abs(rows.mean() + 0.5 - 25) <= 0.5


def test_the_picture_given_is_left_alone():
    grey = Image.new("L", (100, 100), 90)
    before = grey.copy()
    drawn = draw_regions(grey, [BOX], labels=["a"])
    assert grey == before
    assert (drawn.mode, drawn.size) == ("RGB", (100, 100))


def test_colours_are_taken_in_turn():
    black = Image.new("RGB", (100, 100))
    boxes = [Box(left=at, top=10, right=at + 20, bottom=90) for at in (5, 35, 65)]
    drawn = draw_regions(black, boxes, colors=["red", (0, 0, 255)])
    assert [drawn.getpixel((at + 1, 50)) for at in (5, 35, 65)] == [
        (255, 0, 0),
        (0, 0, 255),
        (255, 0, 0),
    ]


@pytest.mark.parametrize(
    "region",
    [
        Box(left=0, top=0, right=100, bottom=100),
        Box(left=90, top=95, right=100, bottom=100),
        Box(left=-50, top=-50, right=300, bottom=300),
        Box(left=40, top=40, right=40, bottom=40),
        Point(x=100, y=100),
        Point(x=-500, y=20),
    ],
)
def test_a_label_stays_on_the_picture(region):
    grey = Image.new("RGB", (100, 100), "grey")
    plain, labelled = draw_regions(grey, [region]), draw_regions(grey, [region], labels=["cat"])
    rows, cols = changed(plain, labelled).nonzero()
    assert (cols.max() - cols.min() + 1) > 15, "the label is shown whole"
    assert rows.max() - rows.min() + 1 > 8


@pytest.mark.parametrize("x", [5, 50, 95])
def test_the_label_of_a_point_leaves_the_point_free(x):
    grey, point = Image.new("RGB", (100, 100), "grey"), Point(x=x, y=50)
    plain, labelled = draw_regions(grey, [point]), draw_regions(grey, [point], labels=["cat"])
    assert not changed(plain, labelled)[48:52, x - 2 : x + 2].any()


def test_a_photo_is_drawn_upright():
    photo = Image.new("RGB", (60, 40), "grey")
    photo.getexif()[0x0112] = 6
    assert draw_regions(photo, []).size == (40, 60)


def test_a_font_of_ones_own_is_used():
    grey = Image.new("RGB", (200, 200), "grey")
    large = draw_regions(grey, [BOX], labels=["cat"], font=ImageFont.load_default(size=40))
    assert changed(grey, large).sum() > changed(grey, draw_regions(grey, [BOX])).sum()


def test_labels_and_colours_must_suffice():
    grey = Image.new("RGB", (100, 100), "grey")
    with pytest.raises(ValueError, match="2 labels for 1 regions"):
        draw_regions(grey, [BOX], labels=["a", "b"])
    with pytest.raises(ValueError, match="colors is empty"):
        draw_regions(grey, [BOX], colors=[])
