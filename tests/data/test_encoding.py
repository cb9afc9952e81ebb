"""Laws of tokenised documents: tokenised once, text stays text, targets where they belong."""

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image as Pictures
from tokenizers import processors

from mm1_hf.data.documents import Document, Image, Text
from mm1_hf.data.encoding import encode, encode_many, expand, find_runs, make_image_ids

from . import odd_documents as odd
from .small_corpus import TOKENS_PER_TILE, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def conversation(*messages) -> Document:
    segments = []
    for turn, (role, *parts) in enumerate(messages):
        for part in parts:
            kind = Text if isinstance(part, str) else Image
            segments.append(kind(part, role, turn))
    return Document(segments=tuple(segments), key="k", source="s", kind="conversation")


def picture() -> Pictures.Image:
    return Pictures.new("RGB", (9, 9), (10, 200, 30))


@settings(max_examples=60)
@given(odd.interleaved | odd.captions | odd.plain_texts)
def test_a_document_is_what_the_processor_makes_of_it_and_an_end(processor, document):
    encoded = encode(document, processor)
    parts = [s.text if isinstance(s, Text) else picture() for s in document.segments]
    text, images = processor.interleave(parts)
    expected = processor(text=text, images=images or None)["input_ids"][0]
    expanded = expand(encoded, [TOKENS_PER_TILE] * len(images))
    assert expanded.input_ids.tolist() == [*expected, processor.tokenizer.eos_token_id]
    assert len(encoded.images) == len(images)


@settings(max_examples=40)
@given(odd.conversations())
def test_a_conversation_has_the_targets_that_transformers_marks(processor, document):
    encoded = encode(document, processor)
    messages = []
    for segment in document.segments:
        if not messages or messages[-1][0] != segment.turn:
            messages.append((segment.turn, {"role": segment.role, "content": []}))
        part = (
            {"type": "text", "text": segment.text}
            if isinstance(segment, Text)
            else {"type": "image", "image": picture()}
        )
        messages[-1][1]["content"].append(part)
    if not messages:
        assert len(encoded.input_ids) == 0
        return
    expected = processor.apply_chat_template(
        [message for _, message in messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    expanded = expand(encoded, [TOKENS_PER_TILE] * len(encoded.images))
    assert expanded.input_ids.tolist() == list(expected["input_ids"][0])
    marked = np.array(expected["assistant_masks"][0], dtype=bool)
    marked[0] = False
    marked &= expanded.image < 0
    assert expanded.supervised.tolist() == marked.tolist()


@settings(max_examples=40)
@given(odd.documents)
def test_no_text_becomes_an_image_and_no_image_a_target(processor, document):
    encoded = encode(document, processor)
    is_image = encoded.input_ids == processor.image_token_id
    assert is_image.sum() == sum(isinstance(s, Image) for s in document.segments)
    assert not (encoded.supervised & is_image).any()
    assert not encoded.supervised[:1].any()


@settings(max_examples=40)
@given(odd.documents)
def test_runs_add_up_to_the_expanded_document(processor, document):
    encoded = encode(document, processor)
    tokens = [(7 * number) % 5 for number in range(len(encoded.images))]
    runs = find_runs(encoded, tokens)
    expanded = expand(encoded, tokens)
    assert runs.tokens.sum() == len(expanded.input_ids)
    assert runs.tokens[runs.is_image].tolist() == tokens
    assert runs.targets.sum() == expanded.supervised.sum()
    ends = np.cumsum(runs.tokens)
    places = [np.arange(end - n, end) for end, n in zip(ends, runs.targets, strict=True)]
    at_the_end = np.concatenate([*places, np.zeros(0)]).astype(int)
    assert np.flatnonzero(expanded.supervised).tolist() == at_the_end.tolist()
    assert np.repeat(runs.is_image, runs.tokens).tolist() == (expanded.image >= 0).tolist()


def test_documents_encoded_together_are_those_encoded_alone(processor):
    documents = [*odd.ODD_DOCUMENTS.values(), conversation(("user", "a"), ("assistant", "b"))]
    for together, document in zip(encode_many(documents, processor), documents, strict=True):
        alone = encode(document, processor)
        assert together.input_ids.tolist() == alone.input_ids.tolist()
        assert together.supervised.tolist() == alone.supervised.tolist()


def test_a_chat_may_be_cut_behind_every_answer(processor):
    document = conversation(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert len(find_runs(encode(document, processor), []).tokens) == 3


def test_what_a_tokenizer_puts_around_a_text_is_kept_and_the_end_comes_once():
    processor = make_processor()
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<pad> $A </s>", special_tokens=[("<pad>", 0), ("</s>", 1)]
    )
    ids = encode(odd.web("a b"), processor).input_ids.tolist()
    assert (ids[0], ids[-1]) == (0, 1)
    assert ids.count(1) == 1


def test_a_template_without_generation_marks_is_refused_by_name(processor):
    template = processor.chat_template
    try:
        processor.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        with pytest.raises(ValueError, match=r"'k' of source 's'.*generation"):
            encode(conversation(("user", "a")), processor)
    finally:
        processor.chat_template = template


def test_a_wrong_number_of_image_counts_is_an_error(processor):
    with pytest.raises(ValueError, match="1 images, but token counts for 2"):
        expand(encode(odd.web(b"1"), processor), [4, 4])


@pytest.mark.parametrize("markers", ["index", "separators"])
@pytest.mark.parametrize("tiling", ["none", "static", "dynamic"])
def test_markers_stand_where_the_processor_puts_them_and_are_no_targets(tiling, markers):
    processor = make_processor(tiling=tiling, markers=markers)
    pictures = [Pictures.new("RGB", size) for size in [(90, 30), (20, 70)]]
    document = conversation(
        ("user", "a", b"1", "b", b"2"), ("assistant", "c <overview> <index_0> d")
    )
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image", "image": pictures[0]},
                {"type": "text", "text": "b"},
                {"type": "image", "image": pictures[1]},
            ],
        },
        {"role": "assistant", "content": "c <overview> <index_0> d"},
    ]
    expected = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    plan = processor.plan([(p.height, p.width) for p in pictures])
    ids = {n: make_image_ids(t, processor, image=n) for n, t in enumerate(plan.tiles)}
    expanded = expand(encode(document, processor), plan.num_tokens, image_ids=ids)
    assert expanded.input_ids.tolist() == list(expected["input_ids"][0])
    assert expanded.supervised.tolist() == [bool(n) for n in expected["assistant_masks"][0]]
    assert (expanded.image >= 0).sum() == sum(plan.num_tokens)
    assert not (expanded.supervised & (expanded.image >= 0)).any()


def test_ids_of_an_image_that_are_not_as_many_as_its_tokens_are_an_error(processor):
    with pytest.raises(ValueError, match="Image 0 of the document becomes 3 tokens, but 4"):
        expand(encode(odd.web(b"1"), processor), [4], image_ids={0: np.zeros(3, int)})
