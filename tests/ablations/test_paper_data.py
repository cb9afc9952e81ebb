"""What the small-scale study shows its models: real digits, writers apart, one theme at a time."""

import numpy as np
import pytest

from mm1_hf.ablations.paper.batches import IGNORED, FeatureCollator
from mm1_hf.ablations.paper.documents import (
    MOST_SHOTS,
    Picture,
    Pretraining,
    Text,
    caption_tests,
    conversation,
    few_shot_tests,
    question_tests,
    snippet,
    split_prose,
    text_tests,
)
from mm1_hf.ablations.paper.pictures import Library
from mm1_hf.ablations.paper.settings import Albums, Shares
from mm1_hf.demo.canvases import PLACES, Painter
from mm1_hf.demo.digits import load_split
from mm1_hf.demo.vocabulary import build_tokenizer

SIZES = Albums(captioned=30, singles=40, pages=20, tested=24)


@pytest.fixture(scope="module")
def library():
    return Library(SIZES, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(Painter(load_split().train), seed=0)


class OneTile:
    """Features of pictures that are one tile each, whatever they show."""

    def num_tiles(self, album: str) -> int:
        return 1

    def read(self, pictures):
        return np.zeros((len(pictures), 4, 8))


def test_test_pictures_are_of_test_writers_only(library):
    """Undistorted digits of test writers are found in the test albums, and in no other."""
    test = {glyph.tobytes() for glyph in Painter(load_split().test).glyphs}
    cells = {name: list(inked_cells(library[name])) for name in ("singles", "singles_test")}
    assert all(cell in test for cell in cells["singles_test"])
    assert not any(cell in test for cell in cells["singles"])


def inked_cells(canvases):
    for canvas in canvases:
        for row in (0, 16):
            for column in (0, 16):
                cell = canvas.pixels[row : row + 16, column : column + 16]
                if (cell < 255).any():
                    yield np.ascontiguousarray(cell).tobytes()


def test_a_seed_decides_every_album_and_sizes_do_not_change_what_is_there(library):
    larger = Library(Albums(captioned=35, singles=41, pages=22, tested=24), seed=0)
    other = Library(SIZES, seed=1)
    for name, album in library.albums.items():
        pairs = list(zip(album, larger[name], strict=False))
        assert all(np.array_equal(one.pixels, two.pixels) for one, two in pairs)
        assert any(
            not np.array_equal(one.pixels, two.pixels)
            for one, two in zip(album, other[name], strict=True)
        )


def test_a_page_says_which_quarter_holds_which_digit(library):
    for page in library["pages"]:
        assert page.pixels.shape == (64, 64)
        for number, place in enumerate(PLACES):
            row, column = (32 * offset for offset in divmod(number, 2))
            has_ink = (page.pixels[row : row + 32, column : column + 32] < 255).any()
            assert has_ink == (page.value_at(place) != "none")


def test_the_mixture_is_what_its_weights_say(library):
    make = Pretraining(library, Shares(5, 5, 1), full_captions=0.4)
    documents = [make(np.random.default_rng([3, index])) for index in range(1500)]
    pictures = [sum(isinstance(one, Picture) for one in document) for document in documents]
    shares = [np.mean([n == 1 for n in pictures]), np.mean([n > 1 for n in pictures])]
    assert shares == pytest.approx([5 / 11, 5 / 11], abs=0.04)
    assert max(pictures) == MOST_SHOTS + 1
    captions = [document[1].text for document in documents if isinstance(document[0], Picture)]
    full = np.mean([text.startswith("Places:") for text in captions if text[0] in "PD"])
    assert full == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("kind", ["caption", "interleaved", "text"])
def test_one_kind_can_stand_alone(library, kind):
    weights = {"caption": 0.0, "interleaved": 0.0, "text": 0.0, kind: 1.0}
    make = Pretraining(library, Shares(**weights), full_captions=0.0)
    numbers = {
        sum(isinstance(one, Picture) for one in make(np.random.default_rng(index)))
        for index in range(60)
    }
    expected = {"caption": {1}, "interleaved": set(range(2, MOST_SHOTS + 2)), "text": {0}}
    assert numbers == expected[kind]


def test_prose_for_tests_is_never_learned():
    train, test = split_prose()
    assert len(test) > 4000 and test not in train
    for (piece,) in text_tests(number=20):
        assert piece.text in test
    assert snippet(train, np.random.default_rng(0)) in train


def test_only_the_last_label_is_asked_for_and_its_theme_shows_only_in_the_examples(library):
    for theme, words in (("parity", {"even", "odd"}), ("place", set(PLACES))):
        tests = few_shot_tests(library, num_shots=4, theme=theme, seed=0)
        assert len(tests) == SIZES.tested
        for document in tests:
            pictures = [one for one in document if isinstance(one, Picture)]
            labels = [one for one in document if isinstance(one, Text)]
            assert [one.album for one in pictures] == ["singles"] * 4 + ["singles_test"]
            assert [one.learned for one in labels] == [False] * 4 + [True]
            assert {one.text.strip() for one in labels} <= words


def test_answers_are_learned_and_questions_are_not(library):
    page = library["pages"][0]
    document = conversation("pages", 0, page, np.random.default_rng(0))
    learned = [one.text for one in document if isinstance(one, Text) and one.learned]
    assert len(learned) == 3 and not any("?" in text for text in learned)
    for one in question_tests(library["pages_test"], seed=0):
        assert [isinstance(one[0], Picture), one[1].learned, one[2].learned] == [True, False, True]


def test_a_batch_is_what_the_processor_makes(library, tokenizer):
    """Tokens are those of the library's own processor; only the pixels are features instead."""
    from mm1_hf import MM1ForConditionalGeneration, MM1Processor, MM1VisionConfig
    from mm1_hf.ablations.paper.models import compose, text_config
    from mm1_hf.ablations.paper.settings import Decoder, Settings
    from mm1_hf.demo.collators import DocumentCollator

    decoder = Decoder(width=16, layers=1)
    vision = MM1VisionConfig(
        image_size=16,
        patch_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = compose(
        Settings(decoder=decoder),
        vision=vision,
        text=text_config(decoder, tokenizer),
        tokenizer=tokenizer,
    )
    assert isinstance(model, MM1ForConditionalGeneration)
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config)
    make = Pretraining(library, Shares(1, 1, 1), full_captions=0.5)
    documents = [make(np.random.default_rng(index)) for index in range(16)]
    shown = [
        [library[a.album][a.number].pixels if isinstance(a, Picture) else a.text for a in document]
        for document in documents
    ]
    theirs = DocumentCollator(processor)(shown)
    ours = FeatureCollator(tokenizer, OneTile(), tokens_per_tile=4)(documents)
    for name in ("input_ids", "attention_mask"):
        assert (ours[name] == theirs[name]).all(), name
    # Nothing comes before the first token, so its label is never used.
    assert (ours["labels"][:, 1:] == theirs["labels"][:, 1:]).all()


def test_the_place_of_a_document_in_a_test_is_where_its_label_is(library, tokenizer):
    collator = FeatureCollator(tokenizer, OneTile(), tokens_per_tile=4)
    tests = caption_tests(library["captioned_test"])
    batch = collator(tests)
    for labels, document in zip(batch["labels"], tests, strict=True):
        said = tokenizer.decode(labels[labels != IGNORED])
        assert said == document[-1].text + tokenizer.eos_token
