"""Documents are well formed, reproducible, and mixed as the paper mixes them."""

import numpy as np
import pytest

from mm1_hf.demo.canvases import CAPTION_PROMPT, LARGE_CELL, PLACES, Painter
from mm1_hf.demo.digits import load_split
from mm1_hf.demo.documents import (
    MIXTURE,
    PICTURES_PER_DOCUMENT,
    PLACES_PROMPT,
    THEMES,
    TURNS_PER_CONVERSATION,
    Conversations,
    Generated,
    PretrainingDocuments,
    interleaved_document,
    places_document,
    theme_label,
)


@pytest.fixture(scope="module")
def painter():
    return Painter(load_split().train)


def kind_of(document):
    pictures = sum(isinstance(segment, np.ndarray) for segment in document)
    return {0: "text", 1: "caption", PICTURES_PER_DOCUMENT: "interleaved"}[pictures]


def test_the_mixture_is_45_45_10_by_sequence(painter):
    documents = Generated(PretrainingDocuments(painter), length=2000, seed=0)
    kinds = [kind_of(documents[index]) for index in range(len(documents))]
    for kind, wanted in MIXTURE.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(wanted, abs=0.04)


def test_a_document_depends_on_seed_and_position_only(painter):
    make = PretrainingDocuments(painter)
    once = Generated(make, length=50, seed=7)
    again = Generated(make, length=10, seed=7)
    other = Generated(make, length=50, seed=8)
    assert all(same_document(once[index], again[index]) for index in reversed(range(10)))
    assert not all(same_document(once[index], other[index]) for index in range(10))


def same_document(one, two):
    return len(one) == len(two) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, two, strict=True)
    )


def test_captions_follow_one_of_three_prompts(painter):
    documents = Generated(PretrainingDocuments(painter), length=40, seed=0)
    captions = [document for document in documents if kind_of(document) == "caption"]
    prompts = {text.split(" ")[0] for _, text in captions}
    assert prompts == {CAPTION_PROMPT, PLACES_PROMPT}


@pytest.mark.parametrize("theme", THEMES)
def test_a_few_shot_prompt_lacks_only_the_last_label(painter, theme):
    rng = np.random.default_rng(0)
    canvases = [painter.paint(rng, num_digits=1) for _ in range(3)]
    whole = interleaved_document(canvases, theme=theme)
    prompt = interleaved_document(canvases, theme=theme, complete=False)
    assert same_document(whole[:-1], prompt)
    assert whole[-1] == f" {theme_label(canvases[-1], theme)}\n"


def test_a_conversation_alternates_and_shows_its_picture_once():
    painter = Painter(load_split().train, cell=LARGE_CELL)
    messages = Conversations(painter)(np.random.default_rng(0))
    assert [message["role"] for message in messages] == [
        "user",
        "assistant",
    ] * TURNS_PER_CONVERSATION
    kinds = [part["type"] for message in messages for part in message["content"]]
    assert kinds.count("image") == 1 and kinds[0] == "image"


def test_place_captions_tell_every_place_in_changing_order(painter):
    orders = set()
    for seed in range(20):
        canvas = painter.paint(np.random.default_rng(seed))
        pixels, text = places_document(painter, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels, canvas.pixels)
        details = [part.rsplit(" ", 1) for part in text.removeprefix("Places: ").split(", ")]
        told = {place: value for place, value in details}
        truth = {digit.place: str(digit.value) for digit in canvas.digits}
        assert told == {place: truth.get(place, "none") for place in PLACES}
        orders.add(tuple(told))
    assert len(orders) > 5
