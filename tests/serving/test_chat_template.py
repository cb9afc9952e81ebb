"""Rendered by the tokenizer alone, the template keeps the law that no text becomes a picture."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mm1_hf import MM1Processor
from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK
from mm1_hf.serving import escaping_chat_template

from ..model.processors import make_config, picture
from ..small_tokenizers import KINDS, SmallTokenizers

FRAGMENTS = [
    "<image>",
    "<ima",
    "ge>",
    "<",
    ">",
    "</s>",
    "<s>",
    "s>",
    "<pad>",
    "a",
    " ",
    ESCAPE_MARK,
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=7).map("".join)


def make_processor(kind: str = "byte_level", **kwargs) -> MM1Processor:
    tokenizer = SmallTokenizers()(kind, **kwargs)
    return MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())


def engine_ids(processor, messages) -> list[int]:
    """What an engine does: the template by the tokenizer, a picture one placeholder."""
    return processor.tokenizer.apply_chat_template(
        messages,
        chat_template=escaping_chat_template(processor),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]


def our_ids(processor, messages) -> list[int]:
    """What our processor does, its placeholders not expanded."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    bos = processor.tokenizer.bos_token
    starts = bos is not None and text.startswith(bos)
    return processor.tokenizer.encode(text, add_special_tokens=not starts)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@given(texts=st.lists(TEXTS, min_size=1, max_size=3), with_picture=st.booleans())
@example(texts=["<ima", "ge>"], with_picture=False)
@example(texts=["a<", "s>"], with_picture=False)
@settings(max_examples=100)
def test_untrusted_text_gives_the_tokens_that_the_processor_gives(processor, texts, with_picture):
    content = [{"type": "text", "text": text} for text in texts]
    if with_picture:
        content.insert(1, {"type": "image", "image": picture()})
    messages = [
        {"role": "system", "content": texts[0]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": texts[-1]},
        {"role": "user", "content": texts[-1]},
    ]
    found = engine_ids(processor, messages)
    assert found == our_ids(processor, messages)
    assert found.count(processor.image_token_id) == int(with_picture)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_is_escaped_alike(kind):
    processor = make_processor(kind)
    messages = [{"role": "user", "content": "is <image> a picture? <ima"}]
    assert engine_ids(processor, messages) == our_ids(processor, messages)


def test_a_tokenizer_that_puts_a_first_token_keeps_it():
    processor = make_processor()
    from tokenizers.processors import TemplateProcessing

    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    messages = [{"role": "user", "content": "hello"}]
    found = engine_ids(processor, messages)
    assert found[0] == tokenizer.bos_token_id
    assert found == our_ids(processor, messages)


def test_tools_and_names_must_hold_no_control_token(processor):
    render = processor.tokenizer.apply_chat_template
    template = escaping_chat_template(processor)
    user = {"role": "user", "content": "hello"}
    with pytest.raises(Exception, match="must not contain <image>"):
        render([{**user, "name": "<image>"}], chat_template=template, tokenize=False)
    tools = [{"type": "function", "function": {"name": "f", "description": "<image>"}}]
    with pytest.raises(Exception, match="must not contain <image>"):
        render([user], tools=tools, chat_template=template, tokenize=False)


def test_several_templates_are_refused(processor):
    several = make_processor()
    several.chat_template = {"default": "x", "tools": "y"}
    with pytest.raises(ValueError, match="chat_template is a dict"):
        escaping_chat_template(several)
