"""Training documents: a pure function of seed and position makes each one.

Three kinds as in MM1's pre-training (captions, interleaved documents, text) and conversations for
supervised fine-tuning. A document is a list of texts and pictures in reading order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sklearn.datasets
from torch.utils.data import Dataset

from mm1_hf.demo.canvases import CAPTION_PROMPT, PLACES, Canvas, Painter
from mm1_hf.demo.questions import ask

Segments = list
MIXTURE = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
PLACES_PROMPT = "Places:"
THEMES = {"digit": 0.5, "parity": 0.25, "place": 0.25}
PICTURES_PER_DOCUMENT = 5
TURNS_PER_CONVERSATION = 4
_TEXT_CHARACTERS = 48


class Generated(Dataset):
    """A data set of `length` examples, each made when asked for, from seed and position."""

    def __init__(self, make: Callable[[np.random.Generator], object], *, length: int, seed: int):
        self.make = make
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        if index >= self.length:
            raise IndexError(f"Example {index} of {self.length} was asked for.")
        return self.make(np.random.default_rng([self.seed, index]))


def caption_document(painter: Painter, rng: np.random.Generator) -> Segments:
    """A picture and its caption."""
    canvas = painter.paint(rng)
    return [canvas.pixels, f"{CAPTION_PROMPT} {canvas.caption}"]


def places_document(painter: Painter, rng: np.random.Generator) -> Segments:
    """A picture and all four places in any order, each with its digit or "none".

    In plain captions the order of the places gives away which one is next. Here it does not, so the
    model must learn what the words for the places mean.
    """
    canvas = painter.paint(rng)
    places = rng.permutation(PLACES).tolist()
    details = ", ".join(f"{place} {canvas.value_at(place)}" for place in places)
    return [canvas.pixels, f"{PLACES_PROMPT} {details}"]


# The second plays the part of MM1's synthetic captions, which tell more than what the web writes.
# MM1 uses 7 % of them; a few minutes of training need more (our choice).
CAPTIONS = {caption_document: 0.6, places_document: 0.4}


def theme_label(canvas: Canvas, theme: str) -> str:
    """What an interleaved document of this theme says after the picture of one digit."""
    place, value = canvas.digits[0]
    return {"digit": str(value), "parity": ("even", "odd")[value % 2], "place": place}[theme]


def interleaved_document(
    canvases: Sequence[Canvas], *, theme: str, complete: bool = True
) -> Segments:
    """Pictures of one digit, each followed by its label; the theme shows only in the labels.

    So the second label can be told only by reading the first: this teaches in-context learning.
    With `complete=False` the last label is left out, which makes a few-shot prompt.
    """
    segments: Segments = []
    for canvas in canvases:
        segments += [canvas.pixels, f" {theme_label(canvas, theme)}\n"]
    return segments if complete else segments[:-1]


class PretrainingDocuments:
    """Makes MM1's mixture: 45 % captions, 45 % interleaved documents, 10 % text, by sequence.

    Source of the shares: MM1, arXiv 2403.09611, section 3.2.
    """

    def __init__(self, painter: Painter):
        self.painter = painter
        self.prose = load_prose()

    def __call__(self, rng: np.random.Generator) -> Segments:
        """Make one document of a random kind."""
        kind = rng.choice(list(MIXTURE), p=list(MIXTURE.values()))
        if kind == "caption":
            makers = list(CAPTIONS)
            make = makers[rng.choice(len(makers), p=list(CAPTIONS.values()))]
            return make(self.painter, rng)
        if kind == "interleaved":
            theme = rng.choice(list(THEMES), p=list(THEMES.values()))
            canvases = [self.painter.paint(rng, num_digits=1) for _ in range(PICTURES_PER_DOCUMENT)]
            return interleaved_document(canvases, theme=theme)
        start = int(rng.integers(len(self.prose) - _TEXT_CHARACTERS))
        return [self.prose[start : start + _TEXT_CHARACTERS]]


class Conversations:
    """Makes conversations about one large canvas: several questions and their answers."""

    def __init__(self, painter: Painter):
        self.painter = painter

    def __call__(self, rng: np.random.Generator) -> list[dict]:
        """Make one conversation, in the messages form of chat templates."""
        canvas = self.painter.paint(rng)
        messages = []
        for turn in range(TURNS_PER_CONVERSATION):
            question = ask(canvas, rng)
            picture = canvas.pixels if turn == 0 else None
            messages += [
                user_message(question.text, picture),
                {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
            ]
        return messages


def user_message(text: str, picture: np.ndarray | None = None) -> dict:
    """A user's turn: the picture, if there is one, and then the text."""
    content: list[dict] = [{"type": "text", "text": text}]
    if picture is not None:
        content.insert(0, {"type": "image", "image": picture})
    return {"role": "user", "content": content}


def load_prose() -> str:
    """English prose that is there already: scikit-learn's descriptions of its data sets."""
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    files = sorted(folder.glob("*.rst"))
    return "\n".join(" ".join(file.read_text(encoding="utf-8").split()) for file in files)
