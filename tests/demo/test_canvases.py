"""What is drawn is what the caption says, and test writers are never seen in training."""

import numpy as np
import pytest

from mm1_hf.demo.canvases import LARGE_CELL, PLACES, Painter
from mm1_hf.demo.digits import load_split


@pytest.fixture(scope="module")
def split():
    return load_split()


def test_the_split_is_a_partition_in_the_order_of_the_writers(split):
    from sklearn.datasets import load_digits

    images = np.concatenate([split.train.images, split.test.images])
    values = np.concatenate([split.train.values, split.test.values])
    assert (len(split.train.images), len(split.test.images)) == (1347, 450)
    np.testing.assert_array_equal(images, load_digits().images)
    np.testing.assert_array_equal(values, load_digits().target)


def test_no_test_picture_is_a_training_picture(split):
    train = {image.tobytes() for image in split.train.images}
    assert not any(image.tobytes() in train for image in split.test.images)


@pytest.mark.parametrize("cell", [16, LARGE_CELL])
def test_what_is_drawn_is_what_the_truth_says(split, cell):
    painter = Painter(split.train, cell=cell)
    for seed in range(50):
        canvas = painter.paint(np.random.default_rng(seed))
        drawn = {}
        for index, place in enumerate(PLACES):
            row, column = (cell * offset for offset in divmod(index, 2))
            window = canvas.pixels[row : row + cell, column : column + cell]
            if (window < 255).any():
                same = (painter.glyphs == window).all(axis=(1, 2))
                drawn[place] = set(painter.values[same].tolist())
        assert drawn == {place: {value} for place, value in canvas.digits}


def test_the_caption_names_every_digit_in_reading_order(split):
    painter = Painter(split.train)
    canvas = painter.paint(np.random.default_rng(0), num_digits=4)
    parts = canvas.caption.split(", ")
    assert [part.rsplit(" ", 1)[0] for part in parts] == list(PLACES)
    assert [int(part.rsplit(" ", 1)[1]) for part in parts] == [d.value for d in canvas.digits]


def test_the_number_of_digits_can_be_asked_for_and_is_otherwise_one_to_four(split):
    painter = Painter(split.train)
    rng = np.random.default_rng(0)
    assert all(len(painter.paint(rng, num_digits=n).digits) == n for n in (1, 2, 3, 4))
    assert {len(painter.paint(rng).digits) for _ in range(100)} == {1, 2, 3, 4}


def test_a_large_canvas_shrinks_to_the_small_one(split):
    """So that the overview of a tiled picture shows what pre-training showed."""
    small = Painter(split.train).paint(np.random.default_rng(3))
    large = Painter(split.train, cell=LARGE_CELL).paint(np.random.default_rng(3))
    assert small.digits == large.digits
    shrunk = large.pixels.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(shrunk - small.pixels).mean() < 10


def test_variants_keep_the_value_and_change_the_ink(split):
    plain = Painter(split.train)
    varied = Painter(split.train, num_variants=2)
    number = len(plain.glyphs)
    np.testing.assert_array_equal(varied.glyphs[:number], plain.glyphs)
    np.testing.assert_array_equal(varied.values, np.tile(plain.values, 3))
    for variants in (varied.glyphs[number : 2 * number], varied.glyphs[2 * number :]):
        change = np.abs(variants.astype(float) - plain.glyphs).mean(axis=(1, 2))
        assert 5 < change.mean() < 60
        assert (variants[:, 0, 0] > 0).any()


def test_variants_of_a_digit_stay_closer_to_it_than_to_others(split):
    painter = Painter(split.train, num_variants=1)
    glyphs = painter.glyphs.reshape(2, -1, 256).astype(float)
    centers = np.stack([glyphs[0][split.train.values == value].mean(axis=0) for value in range(10)])
    nearest = ((glyphs[1][:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == split.train.values).mean() > 0.8
