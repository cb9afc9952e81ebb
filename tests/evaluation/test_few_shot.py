import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.few_shot import Demonstrations, draw_order, show_example
from mm1_hf.evaluation.fingerprint import question_fingerprint
from mm1_hf.evaluation.images import Pictures
from mm1_hf.evaluation.records import RowPictures, StoredPicture
from mm1_hf.model.decoding_mm1 import ImageError

from . import small_tasks as small


def draw(examples, query, *, number=2, seed=0, **settings):
    pictures = Pictures()
    pool = Demonstrations(examples, task=small.task(), pictures=pictures, **settings)
    return pool.draw(show_example(query, pictures), number=number, seed=seed)


@given(st.integers(0, 60), st.integers(), st.text())
def test_every_order_holds_every_number_once(population, seed, key):
    order = list(draw_order(population, seed=seed, key=key))
    assert sorted(order) == list(range(population))
    assert order == list(draw_order(population, seed=seed, key=key))


def test_orders_are_uniform():
    firsts = Counter(next(draw_order(5, seed=seed, key="k")) for seed in range(2000))
    assert all(abs(count - 400) < 80 for count in firsts.values()) and len(firsts) == 5
    pairs = Counter(tuple(draw_order(3, seed=0, key=str(key))) for key in range(1200))
    assert len(pairs) == 6 and all(abs(count - 200) < 60 for count in pairs.values())


def test_orders_never_change():
    """Figures of last year stay comparable."""
    assert list(draw_order(8, seed=0, key="q1")) == [1, 2, 5, 6, 3, 4, 0, 7]


def test_more_shots_are_the_same_shots_and_more():
    pool, query = small.examples(12, split="t"), small.examples(1, start=50)[0]
    assert draw(pool, query, number=8).indices[:4] == draw(pool, query, number=4).indices


# Eight pictures, of which a data set repeats some, in any form that has the same pixels.
COPIES = st.sampled_from(["picture", "png", "bmp", "path", "rgba", "grey"])


@settings(max_examples=50)
@given(
    repeats=st.lists(st.tuples(st.integers(0, 3), COPIES), min_size=1, max_size=12),
    asked=st.tuples(st.integers(0, 3), COPIES),
    seed=st.integers(0, 3),
)
def test_no_demonstration_shows_a_picture_of_the_question(tmp_path_factory, repeats, asked, seed):
    folder = tmp_path_factory.mktemp("copies")
    pool = [
        Example(key=f"t{n}", images=(_copy(*one, folder, n),), answers=("a",))
        for n, one in enumerate(repeats)
    ]
    query = Example(key="query", images=(_copy(*asked, folder, 99),))
    others = [n for n, (number, _) in enumerate(repeats) if number != asked[0]]
    drawn = draw(pool, query, number=len(others), seed=seed)
    assert sorted(drawn.indices) == others
    wanted = _pixels(query.images[0])
    assert all(_pixels(example.images[0]) != wanted for example in drawn.examples)
    with pytest.raises(ValueError, match=f"Only {len(others)} of {len(pool)} demonstrations"):
        draw(pool, query, number=len(others) + 1, seed=seed)


def _copy(number, form, folder, place):
    image = Image.new("RGB", (5, 4), (50 * number,) * 3)
    if form == "rgba":
        return image.convert("RGBA")
    if form == "grey":
        return image.convert("L")
    if form == "path":
        image.save(path := folder / f"{place}.png", compress_level=place % 9)
        return str(path)
    return image if form == "picture" else small.encoded(image, form)


def _pixels(image):
    if isinstance(image, (str, bytes)):
        image = Image.open(image if isinstance(image, str) else io.BytesIO(image))
    return np.asarray(image.convert("RGB")).tobytes()


def test_a_file_that_lies_on_its_side_is_the_same_picture():
    upright = small.picture("red", number=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = small.encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    pool = [Example(key="t", images=(lying,), answers=("a",)), *small.examples(1, split="u")]
    drawn = draw(pool, Example(key="q", images=(upright,)), number=1)
    assert drawn.indices == (1,)


def test_one_of_several_pictures_is_enough():
    one, other = small.picture("red"), small.picture("blue")
    pool = [Example(key="t", images=(other, one), answers=("a",))]
    with pytest.raises(ValueError, match="1 are the example itself"):
        draw(pool, Example(key="q", images=(one,)), number=1)


def test_without_pictures_the_text_tells_questions_apart():
    pool = [
        Example(key="a", question="Why?", answers=("so",)),
        Example(key="b", question="Why?", choices=("x", "y"), answers=("x",)),
        Example(key="c", question="How?", answers=("thus",)),
    ]
    assert sorted(draw(pool, Example(key="q", question="Why?")).indices) == [1, 2]
    assert sorted(draw(pool, Example(key="c", question="Who?")).indices) == [0, 1]


def test_unreadable_demonstrations_are_counted_or_refused():
    pool = [*small.examples(3, split="t"), Example(key="bad", images=(b"no",), answers=("a",))]
    query = small.examples(1, start=50)[0]
    drawn = draw(pool, query, number=3, skip_unreadable=True)
    assert sorted(drawn.indices) == [0, 1, 2]
    seen = {draw(pool, query, seed=n, skip_unreadable=True).unreadable for n in range(9)}
    assert seen == {0, 1}
    with pytest.raises(ValueError, match="Picture 0 of example 'bad'"):
        draw(pool, query, number=4)


def test_pictures_are_read_from_tables_when_they_are_shown():
    reads = []

    def load():
        reads.append(1)
        return small.encoded(small.picture("red"))

    example = Example(key="t", images=RowPictures([StoredPicture(load)]), answers=("a",))
    question_fingerprint(example, small.task().prompt)
    assert not reads
    assert show_example(example, Pictures()).example.images[0].size == small.picture("red").size
    assert reads == [1]

    def fail():
        raise ValueError("Row 3 holds nothing.")

    example = Example(key="t", images=RowPictures([StoredPicture(fail)]))
    with pytest.raises(ImageError, match="Picture 0 of example 't' cannot be read: Row 3 holds"):
        show_example(example, Pictures())


@pytest.mark.parametrize("answers", [(), ("  ",)])
def test_a_demonstration_needs_an_answer(answers):
    with pytest.raises(ValueError, match="'t' has no answer to show"):
        draw([Example(key="t", question="?", answers=answers)], small.examples(1)[0], number=1)


def test_kept_pictures_stay_within_their_bound():
    pictures = Pictures(limit=3 * 20 * 30 * 4)
    images = [small.encoded(small.picture("red", number=n)) for n in range(40)]
    first = [pictures.show(image, name="one").hashes for image in images]
    kept = pictures._kept.values()
    assert sum(3 * s.picture.width * s.picture.height for s in kept) <= pictures.limit
    assert 2 <= len(kept) < 10
    assert [pictures.show(image, name="one").hashes for image in images] == first
