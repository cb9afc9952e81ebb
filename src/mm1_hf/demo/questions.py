"""Questions about a canvas, their kinds and their true answers."""

from typing import Literal, NamedTuple

import numpy as np

from mm1_hf.demo.canvases import PLACES, Canvas

Kind = Literal["read", "empty", "count", "exists"]
# Reading is what the demonstration is about, and what takes longest to learn: our choice.
KIND_SHARES: dict[Kind, float] = {"read": 0.6, "empty": 0.1, "count": 0.15, "exists": 0.15}


class Question(NamedTuple):
    """A question, its only true answer, and its kind."""

    text: str
    answer: str
    kind: Kind


def ask(canvas: Canvas, rng: np.random.Generator, *, kind: Kind | None = None) -> Question:
    """Ask about a canvas.

    Args:
        canvas: The picture the question is about.
        rng: Chooses what is left open.
        kind: `"read"` asks for the digit at a place, `"empty"` the same of a place without one,
            `"count"` for the number of digits, `"exists"` whether a digit is at a place, with yes
            and no equally often where the canvas allows both. At random if `None`.

    Raises:
        ValueError: If `"empty"` is asked of a canvas without an empty place.
    """
    if kind is None:
        kinds = list(KIND_SHARES)
        kind = kinds[rng.choice(len(kinds), p=list(KIND_SHARES.values()))]
        if kind == "empty" and len(canvas.digits) == len(PLACES):
            kind = "read"
    if kind == "count":
        return Question("How many digits are there?", str(len(canvas.digits)), kind)
    if kind == "exists":
        is_there = bool(rng.integers(2)) or len(canvas.digits) == len(PLACES)
        places = [place for place in PLACES if (canvas.value_at(place) != "none") == is_there]
        answer = "yes" if is_there else "no"
        return Question(f"Is there a digit {rng.choice(places)}?", answer, kind)
    places = [place for place in PLACES if (canvas.value_at(place) == "none") == (kind == "empty")]
    if not places:
        raise ValueError(
            "An 'empty' question needs an empty place, but every place of the canvas holds a "
            "digit. Paint at most three digits, or ask another kind."
        )
    place = str(rng.choice(places))
    # Repeating the place makes an answer read like a caption, which pre-training has taught.
    return Question(f"Which digit is {place}?", f"{place} {canvas.value_at(place)}", kind)
