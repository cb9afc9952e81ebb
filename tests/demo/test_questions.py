"""Every question has one true answer, and guessing does not pay."""

import numpy as np
import pytest

from mm1_hf.demo.canvases import PLACES, Canvas, Painter, PlacedDigit
from mm1_hf.demo.digits import load_split
from mm1_hf.demo.questions import KIND_SHARES, ask

BLANK = np.full((32, 32), 255, dtype=np.uint8)
TWO = Canvas(BLANK, (PlacedDigit("top left", 3), PlacedDigit("bottom right", 3)))


def test_shares_of_the_kinds_sum_to_one():
    assert sum(KIND_SHARES.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_true(seed):
    rng = np.random.default_rng(seed)
    canvas = Painter(load_split().test).paint(rng, num_digits=int(rng.integers(1, 4)))
    values = {digit.place: digit.value for digit in canvas.digits}
    for kind in KIND_SHARES:
        question = ask(canvas, rng, kind=kind)
        asked = question.text.rstrip("?")
        if kind in ("read", "empty"):
            place = next(place for place in PLACES if asked.endswith(place))
            assert question.answer == f"{place} {values.get(place, 'none')}"
            assert question.answer.endswith("none") == (kind == "empty")
        elif kind == "count":
            assert question.answer == str(len(values))
        else:
            place = next(place for place in PLACES if asked.endswith(place))
            assert question.answer == ("yes" if place in values else "no")


def test_yes_and_no_are_equally_likely():
    rng = np.random.default_rng(0)
    answers = [ask(TWO, rng, kind="exists").answer for _ in range(400)]
    assert set(answers) == {"yes", "no"}
    assert 160 < answers.count("yes") < 240


def test_asking_for_an_empty_place_of_a_full_canvas_is_refused():
    full = Canvas(BLANK, tuple(PlacedDigit(place, 1) for place in PLACES))
    with pytest.raises(ValueError, match="every place of the canvas holds a digit"):
        ask(full, np.random.default_rng(0), kind="empty")
