"""Documents for training and tests: texts and references to pictures, in reading order.

A text says of itself whether it is learned. In a test, what is learned is what is asked for: a
prompt and its true answer, read in one pass. The answer that greedy decoding gives is the true one
exactly if the likeliest token is the true one at every place of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mm1_hf.ablations.paper.pictures import Library
from mm1_hf.ablations.paper.settings import Shares
from mm1_hf.demo.canvases import CAPTION_PROMPT, PLACES, Canvas
from mm1_hf.demo.documents import PLACES_PROMPT, THEMES, load_prose, theme_label
from mm1_hf.demo.questions import ask

MOST_SHOTS = 8
_TEXT_CHARACTERS = 64
_CONTEXT_CHARACTERS = 32
_TEST_SHARE_OF_PROSE = 0.15
_TURNS = 3


class Picture(NamedTuple):
    """The picture of an album with a number, counted from 0."""

    album: str
    number: int


class Text(NamedTuple):
    """A text, and whether it is learned (in a test: asked for)."""

    text: str
    learned: bool = True


Document = list[Picture | Text]


class Prose(NamedTuple):
    """English prose to learn from, and prose to be tested on."""

    train: str
    test: str


def split_prose() -> Prose:
    """scikit-learn's descriptions of its data sets; the end is kept for tests."""
    prose = load_prose()
    cut = int(len(prose) * (1 - _TEST_SHARE_OF_PROSE))
    return Prose(prose[:cut], prose[cut:])


def snippet(prose: str, rng: np.random.Generator, *, length: int = _TEXT_CHARACTERS) -> str:
    """A piece of prose of so many characters."""
    start = int(rng.integers(len(prose) - length))
    return prose[start : start + length]


class Pretraining:
    """Makes documents of a mixture: captions, interleaved documents, text."""

    def __init__(self, library: Library, mixture: Shares, *, full_captions: float):
        self.library = library
        self.full_captions = full_captions
        self.prose = split_prose().train
        weights = np.array([mixture.caption, mixture.interleaved, mixture.text], dtype=float)
        self.shares = weights / weights.sum()

    def __call__(self, rng: np.random.Generator) -> Document:
        """Make one document of a random kind."""
        kind = ("caption", "interleaved", "text")[rng.choice(3, p=self.shares)]
        if kind == "text":
            return [Text(snippet(self.prose, rng))]
        if kind == "interleaved":
            return self._interleaved(rng)
        index = int(rng.integers(len(self.library["captioned"])))
        canvas = self.library["captioned"][index]
        if rng.random() < self.full_captions:
            places = rng.permutation(PLACES).tolist()
            details = ", ".join(f"{place} {canvas.value_at(place)}" for place in places)
            text = f"{PLACES_PROMPT} {details}"
        else:
            text = f"{CAPTION_PROMPT} {canvas.caption}"
        return [Picture("captioned", index), Text(text)]

    def _interleaved(self, rng: np.random.Generator) -> Document:
        """Pictures of one digit with labels of one theme; half of the time below some prose."""
        album = self.library["singles"]
        theme = str(rng.choice(list(THEMES), p=list(THEMES.values())))
        indices = rng.integers(len(album), size=int(rng.integers(2, MOST_SHOTS + 2)))
        document: Document = []
        if rng.random() < 0.5:
            document.append(Text(snippet(self.prose, rng, length=_CONTEXT_CHARACTERS) + "\n"))
        for index in indices.tolist():
            document += [Picture("singles", index), Text(_label(album[index], theme))]
        return document


def text_document(prose: str, rng: np.random.Generator) -> Document:
    """Prose alone."""
    return [Text(snippet(prose, rng))]


def conversation(album: str, index: int, canvas: Canvas, rng: np.random.Generator) -> Document:
    """Questions about one page; only the answers are learned."""
    document: Document = [Picture(album, index)]
    for _ in range(_TURNS):
        document += _asked(canvas, rng)
    return document


def caption_tests(canvases: Sequence[Canvas]) -> list[Document]:
    """A picture of a test writer each, and its caption."""
    return [
        [
            Picture("captioned_test", index),
            Text(CAPTION_PROMPT, learned=False),
            Text(f" {canvas.caption}"),
        ]
        for index, canvas in enumerate(canvases)
    ]


def few_shot_tests(library: Library, *, num_shots: int, theme: str, seed: int) -> list[Document]:
    """Labelled pictures of training writers, then a picture of a test writer and its label."""
    shots, queries = library["singles"], library["singles_test"]
    documents = []
    for number, query in enumerate(queries):
        rng = np.random.default_rng([seed, num_shots, number])
        document: Document = []
        for index in rng.integers(len(shots), size=num_shots).tolist():
            label = _label(shots[index], theme)
            document += [Picture("singles", index), Text(label, learned=False)]
        documents.append([*document, Picture("singles_test", number), Text(_label(query, theme))])
    return documents


def text_tests(*, number: int) -> list[Document]:
    """Held-out prose."""
    prose = split_prose().test
    return [text_document(prose, np.random.default_rng([7, index])) for index in range(number)]


def question_tests(pages: Sequence[Canvas], *, seed: int) -> list[Document]:
    """One question about each page of a test writer."""
    return [
        [Picture("pages_test", index), *_asked(page, np.random.default_rng([seed, index]))]
        for index, page in enumerate(pages)
    ]


def _label(canvas: Canvas, theme: str) -> str:
    return f" {theme_label(canvas, theme)}\n"


def _asked(canvas: Canvas, rng: np.random.Generator) -> Document:
    question = ask(canvas, rng)
    return [
        Text(f"\nUser: {question.text}\nAssistant:", learned=False),
        Text(f" {question.answer}\n"),
    ]
