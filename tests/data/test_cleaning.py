import itertools
import pickle
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from mm1_hf.data.cleaning import (
    DOCUMENT_RULES,
    IMAGE_RULES,
    RULES,
    CleaningReport,
    ImageCounts,
    WebDocumentCleaner,
)
from mm1_hf.data.documents import Document, Image, Text

from . import odd_documents as odd

GOOD = odd.picture(120, 120)


def _flat(width: int, height: int) -> bytes:
    file = BytesIO()
    Pictures.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def _at(url: str, content: bytes = GOOD) -> dict:
    return {"bytes": content, "path": url}


def _kept(cleaner: WebDocumentCleaner, document: Document) -> list:
    cleaned = cleaner.clean(document).document
    assert cleaned is not None
    return [s.text if isinstance(s, Text) else "IMAGE" for s in cleaned.segments]


# Rule by rule.

BAD_IMAGES = {
    "url_words": [_at("https://h/Site-LOGO.png"), _at("https://h/widgets/1.png")],
    "unreadable": [
        b"",
        b"no picture",
        GOOD[:20],
        {"bytes": None, "path": "gone.jpg"},
    ],
    "side": [_flat(99, 120), _flat(120, 99), _flat(10_001, 6000), _flat(20_000, 15_000)],
    "aspect_ratio": [_flat(241, 120), _flat(120, 241)],
    "undecodable": [GOOD[:-4000], odd.picture(120, 120, form="JPEG")[:-2000]],
}


@pytest.mark.parametrize(
    ("rule", "image"), [(rule, image) for rule, images in BAD_IMAGES.items() for image in images]
)
def test_an_image_is_dropped_by_its_rule_and_by_no_other(rule, image):
    document = odd.web(GOOD, image)
    assert WebDocumentCleaner().clean(document).dropped_images == {rule: 1}
    others = WebDocumentCleaner(rules=[r for r in RULES if r != rule and "frequent" not in r])
    assert rule not in others.clean(document).dropped_images


@pytest.mark.parametrize(
    "image", [_flat(100, 100), _flat(10_000, 5000), _flat(200, 100), _flat(100, 200)]
)
def test_the_limits_themselves_are_allowed(image):
    assert WebDocumentCleaner().clean(odd.web(image)).dropped_images == {}


def test_words_count_in_urls_only():
    document = odd.web("my icon", {"bytes": GOOD, "path": "icons/1.png"})
    assert _kept(WebDocumentCleaner(), document) == ["my icon", "IMAGE"]


def test_the_first_of_a_repeated_image_stays_where_it_is():
    other = odd.picture(120, 120, seed=1)
    document = odd.web("a ", _at("https://h/1"), "b ", other, GOOD, "c ", _at("https://h/1", other))
    cleaned = WebDocumentCleaner().clean(document)
    assert cleaned.dropped_images == {"repeated_on_page": 2}
    assert cleaned.document == odd.web("a ", _at("https://h/1"), "b ", other, "c ")


def test_an_image_that_was_dropped_counts_as_seen():
    again = GOOD + b" "
    document = odd.web(
        GOOD, b"", _at("https://h/1", b"bad"), _at("https://h/1", again), _at("https://h/2", again)
    )
    assert WebDocumentCleaner().clean(document).dropped_images == {
        "unreadable": 2,
        "repeated_on_page": 2,
    }


def _distinct(number: int) -> list[bytes]:
    return [GOOD + bytes([n]) for n in range(number)]  # Pillow ignores what follows the end


@pytest.mark.parametrize(
    ("images", "rule"),
    [(0, "no_images"), (1, None), (30, None), (31, "too_many_images"), (200, "too_many_images")],
)
def test_a_document_has_1_to_30_images(images, rule):
    cleaned = WebDocumentCleaner().clean(odd.web("text", *_distinct(images)))
    assert cleaned.rule == rule
    assert (cleaned.document is None) == (rule is not None)


def test_documents_are_judged_by_what_is_left_of_them():
    assert WebDocumentCleaner().clean(odd.web("a", b"")).rule == "no_images"
    document = odd.web(*_distinct(30), *[_at(f"https://h/icon/{n}") for n in range(9)])
    assert WebDocumentCleaner().clean(document).rule is None


# Rules over the corpus.


def _corpus() -> list[Document]:
    return [
        *(odd.web(_at("https://h/often", GOOD + bytes([n]))) for n in range(11)),
        *(odd.web(_at(f"https://h/{n}", b"frequent bytes")) for n in range(11)),
        *(odd.web(_at("https://h/ten", odd.picture(seed=n))) for n in range(10)),
    ]


def _count(documents: list[Document]) -> ImageCounts:
    counts = ImageCounts()
    for document in documents:
        counts.add(document)
    return counts


def test_what_occurs_more_than_ten_times_in_the_corpus_is_dropped():
    cleaner = WebDocumentCleaner(rules=["frequent_url", "frequent_bytes"], counts=_count(_corpus()))
    rules = [tuple(cleaner.clean(d).dropped_images) for d in _corpus()]
    assert rules == [("frequent_url",)] * 11 + [("frequent_bytes",)] * 11 + [()] * 10


@given(st.permutations(range(32)), st.lists(st.integers(0, 32), max_size=4))
def test_counts_do_not_depend_on_how_the_corpus_is_cut(order, cuts):
    corpus = _corpus()
    merged = ImageCounts()
    bounds = [0, *sorted(cuts), 32]
    for start, stop in itertools.pairwise(bounds):
        merged.merge(_count([corpus[i] for i in order[start:stop]]))
    whole = _count(corpus)
    for most in (0, 1, 9, 10, 11):
        assert merged.frequent(most) == whole.frequent(most)


def test_counts_survive_their_file(tmp_path):
    counts = _count(_corpus())
    counts.save(tmp_path / "counts.npz")
    loaded = ImageCounts.load(tmp_path / "counts.npz")
    assert loaded.frequent(10) == counts.frequent(10)
    assert {name: len(found) for name, found in loaded.frequent(10).items()} == {
        "urls": 1,
        "contents": 1,
    }


def test_rules_over_the_corpus_are_left_out_without_counts_and_refused_by_name():
    assert not {"frequent_url", "frequent_bytes"} & set(WebDocumentCleaner().rules)
    assert WebDocumentCleaner(counts=ImageCounts()).rules == RULES
    with pytest.raises(ValueError, match="frequent_url need occurrences"):
        WebDocumentCleaner(rules=["frequent_url"])


# What stays.


@given(odd.interleaved)
def test_without_rules_nothing_changes(document):
    cleaned = WebDocumentCleaner(rules=[]).clean(document)
    assert cleaned == (document, {}, None)


@given(st.lists(st.sampled_from([GOOD, _flat(300, 100), b""]) | odd.texts, max_size=8))
def test_texts_lose_no_character_and_images_keep_their_place(segments):
    segments = [s + bytes([n]) if isinstance(s, bytes) else s for n, s in enumerate(segments)]
    cleaner = WebDocumentCleaner(rules=["unreadable", "side", "aspect_ratio"], separator="")
    cleaned = cleaner.clean(odd.web(*segments)).document
    good = [s for s in segments if isinstance(s, str) or s[:-1] == GOOD]
    assert cleaned == odd.web(*good)


def test_two_sentences_do_not_become_one_word():
    cleaner = WebDocumentCleaner(rules=["unreadable"])
    assert _kept(cleaner, odd.web("One.", b"", "Two.", b"", b"", "Three.")) == [
        "One.\n\nTwo.\n\nThree."
    ]
    assert _kept(cleaner, odd.web("One. ", b"", "Two.", b"", "\nThree.")) == ["One. Two.\nThree."]
    assert _kept(cleaner, odd.web(b"", "One.", b"", GOOD, b"", "Two.", b"")) == [
        "One.",
        "IMAGE",
        "Two.",
    ]


@pytest.mark.parametrize("name", odd.ODD_DOCUMENTS)
def test_odd_documents_are_cleaned_without_a_word_of_warning(name):
    document = odd.ODD_DOCUMENTS[name]
    cleaned = WebDocumentCleaner().clean(document)
    assert cleaned.rule == "no_images" and sum(cleaned.dropped_images.values()) == len(
        document.images
    )


def test_odd_pictures_raise_no_warning():
    palette = Pictures.fromarray(np.zeros((120, 120), np.uint8)).convert("P")
    file = BytesIO()
    palette.save(file, "PNG", transparency=b"\x00\x80")
    large = _flat(9_900, 9_900)  # above Pillow's warning, below its refusal
    assert WebDocumentCleaner().clean(odd.web(file.getvalue(), large)).dropped_images == {}


# Counts, and what is refused.


def test_the_report_counts_every_image_and_document_per_source_and_adds_up():
    documents = [
        odd.web("a", GOOD, b"", key="1"),
        odd.web("b", key="2"),
        Document(segments=(Image(GOOD),), key="3", source="other", kind="interleaved"),
    ]
    cleaner, reports = WebDocumentCleaner(), [CleaningReport(), CleaningReport()]
    kept = [*cleaner.clean_all(documents[:2], report=reports[0])]
    kept += cleaner.clean_all(documents[2:], report=reports[1])
    report = reports[0] + reports[1]
    assert [d.key for d in kept] == ["1", "3"]
    assert report.documents == {"web": 2, "other": 1}
    assert report.kept_documents == {"web": 1, "other": 1}
    assert (report.images["web"], report.kept_images["web"]) == (2, 1)
    assert report.dropped_images == {("web", "unreadable"): 1}
    assert report.dropped_documents == {("web", "no_images"): 1}
    assert "web: kept 1 of 2 documents and 1 of 2 images" in str(report)
    assert "  unreadable: 1 images" in str(report)


def test_every_rule_has_a_meaning_and_unknown_ones_are_refused():
    assert set(RULES) == set(IMAGE_RULES) | set(DOCUMENT_RULES) and len(RULES) == 10
    with pytest.raises(ValueError, match="'corrupt': expected names among url_words"):
        WebDocumentCleaner(rules=["corrupt"])


def test_an_image_that_is_only_a_url_is_refused_where_its_bytes_are_needed():
    document = odd.web("a", {"bytes": None, "path": "https://h/1.jpg"})
    with pytest.raises(ValueError, match=r"image 1 of document 'page' .* only, but the rules"):
        WebDocumentCleaner().clean(document)
    cleaner = WebDocumentCleaner(rules=["url_words", "repeated_on_page", "no_images"])
    assert cleaner.clean(document).document == document


def test_a_conversation_is_refused():
    document = Document(segments=(Text("a", "user", 0),), key="k", source="s", kind="conversation")
    with pytest.raises(ValueError, match="is a conversation"):
        WebDocumentCleaner().clean(document)


def test_a_cleaner_travels_to_workers():
    cleaner = pickle.loads(pickle.dumps(WebDocumentCleaner(counts=_count(_corpus()))))
    assert cleaner.clean(odd.web(_at("https://h/often"))).rule == "no_images"
