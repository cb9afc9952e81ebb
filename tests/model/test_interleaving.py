"""Laws of placeholders and of escaped text."""

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.model import interleaving_mm1
from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK, ControlTokens, interleave, unescape

TOKENS = ("<image>", "<s>", "</s>", "image>", "[INST]", "<<<")
control = ControlTokens(TOKENS)
# Pieces of tokens, marks and ordinary text, so that examples come close to tokens.
texts = st.lists(
    st.sampled_from([*TOKENS, "<", "<im", "age>", "<imag", "s>", ESCAPE_MARK, " ", "\n", "é", "猫"])
    | st.text(max_size=5),
    max_size=12,
).map("".join)


def test_worked_examples_in_docstrings_hold():
    assert doctest.testmod(interleaving_mm1).failed == 0


@given(texts)
def test_escaped_text_unescapes_to_what_was_written(text):
    assert unescape(control.escape(text)) == text


@given(st.lists(texts, max_size=4))
def test_no_joint_of_escaped_texts_contains_a_control_token(parts):
    joined = "".join(map(control.escape, parts))
    assert not any(token in joined for token in TOKENS)
    assert unescape(joined) == "".join(parts)


@given(st.text(alphabet="abc é\n"))
def test_text_without_tokens_is_unchanged(text):
    assert control.escape(text) == text


def test_a_token_cannot_be_completed_by_the_next_text():
    joined = control.escape("see <ima") + control.escape("ge>")
    assert "<image>" not in joined
    assert unescape(joined) == "see <image>"


def test_escaping_without_tokens_only_doubles_marks():
    assert ControlTokens(()).escape(f"a{ESCAPE_MARK}<image>") == f"a{ESCAPE_MARK * 2}<image>"


def test_a_token_that_cannot_be_escaped_is_refused_where_it_stands():
    tokens = ControlTokens(["<image>", "#", "<x>"], unescapable=["<x>"])
    assert tokens.escape("fine") == "fine"
    with pytest.raises(ValueError, match=r"contains '#' at character 2, .* single character"):
        tokens.escape("a #1")
    with pytest.raises(ValueError, match="contains '<x>' at character 0"):
        tokens.escape("<x>")


def test_a_token_containing_the_mark_is_refused():
    with pytest.raises(ValueError, match=re.escape("contains U+FDD0")):
        ControlTokens([f"<{ESCAPE_MARK}>"])


def test_segments_keep_their_order_and_text_is_escaped():
    first, second = object(), object()
    text, images = interleave(
        [first, "a <image>", second, " b"], image_token="<image>", escape=control.escape
    )
    assert images == [first, second]
    assert text.count("<image>") == 2
    assert unescape(text) == "<image>a <image><image> b"


@pytest.mark.parametrize("segments", ["one text", [None], ["a", None]])
def test_segments_that_are_neither_text_nor_image_are_refused(segments):
    with pytest.raises(ValueError, match=r"single str|Segment \d is None"):
        interleave(segments, image_token="<image>", escape=str)
