"""Laws of conversations: text stays text, images stand where their parts stand, masks are exact."""

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from mm1_hf import MM1Processor
from mm1_hf.model import chat_mm1
from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK

from .processors import TOKENS_PER_TILE, conversation, make_config, picture, placeholders, run_chat

KINDS = ["byte_level", "metaspace", "word_level", "unigram", "word_piece"]

literals = st.sampled_from(["<image>", "<image", "</s>", "<s>", ESCAPE_MARK, "<pad>"])
texts = st.lists(literals | st.text(max_size=8), max_size=4).map("".join)


# Untrusted text


@pytest.mark.parametrize("kind", KINDS)
def test_escaped_text_is_tokenised_as_if_there_were_no_control_tokens(make_processor, kind):
    processor = make_processor(kind)

    @given(texts)
    def check(text):
        text = text.replace(ESCAPE_MARK, "")
        escaped = processor.tokenizer.encode(processor.escape(text), add_special_tokens=False)
        if kind != "unigram":  # whose model makes control tokens from plain characters
            plain = processor.tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=True
            )
            assert escaped == plain
        special = set(processor.tokenizer.all_special_ids) - {processor.tokenizer.unk_token_id}
        assert not special & set(escaped)

    check()


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_escaped_text_decodes_to_what_was_written(make_processor, kind):
    tokenizer = (processor := make_processor(kind)).tokenizer

    @given(texts)
    def check(text):
        ids = tokenizer.encode(processor.escape(text), add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text

    check()


def test_a_unigram_model_cannot_put_a_control_token_together(make_processor):
    processor = make_processor("unigram")
    text = "a </s> <s> <image> question <pad>"
    # As two texts, neither of which holds a whole token.
    ids = processor.tokenizer.encode(
        processor.escape(text + "</") + processor.escape("s>"), add_special_tokens=False
    )
    known = set(processor.tokenizer.all_special_ids) - {processor.tokenizer.unk_token_id}
    assert not known & set(ids)
    assert processor.tokenizer.tokenize(processor.escape("a question")) == (
        processor.tokenizer.tokenize("a question")
    )


def test_a_normalizer_is_kept_and_the_rule_is_installed_once(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]
    )
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())
    MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())
    assert str(tokenizer.backend_tokenizer.normalizer).count("Replace") == 1
    assert tokenizer.decode(tokenizer.encode(processor.escape("E\u0301<IMAGE><image>"))) == (
        "é<image><image>"
    )


def test_tokens_searched_after_normalisation_are_refused_in_untrusted_text(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<odd>", normalized=True, special=True)], special_tokens=True)
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())
    assert processor.escape("even <image>")
    with pytest.raises(ValueError, match=r"'<odd>' at character 2, .*normalized=False"):
        processor.escape("a <odd>")


# Conversations


def test_worked_examples_in_docstrings_hold():
    assert doctest.testmod(chat_mm1).failed == 0


def test_the_default_template_reads_as_plain_text(processor):
    text = processor.apply_chat_template(conversation(), add_generation_prompt=True)
    assert text == (
        "System: Answer briefly.\nUser: Left: <image> what?\nAssistant: a cat</s>\n"
        "User: Sure?\nAssistant: yes</s>\nAssistant:"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["a cat", "a <image> cat", "</s> <im", "é <s></s>"])
def test_the_assistant_mask_covers_answers_and_their_ends_only(make_processor, kind, answer):
    processor = make_processor(kind, tiling="static")
    output = run_chat(processor, conversation(answer=answer), return_assistant_tokens_mask=True)
    mask = torch.as_tensor(output["assistant_masks"])[0].bool()
    ids = output["input_ids"][0]
    expected = [
        token
        for text in (answer, "yes")
        for token in processor.tokenizer.encode(
            f" {processor.escape(text)}</s>", add_special_tokens=False
        )
    ]
    if kind == "metaspace":  # at the start of a text, this kind writes one more space
        space = expected[0]
        expected = [
            t for i, t in enumerate(expected) if i == 0 or (expected[i - 1], t) != (space,) * 2
        ]
        made = ids[mask].tolist()
        assert processor.decode(made).replace(" ", "") == (f"{answer}</s>yes</s>".replace(" ", ""))
    else:
        assert ids[mask].tolist() == expected
    assert placeholders(processor, ids) == 5 * TOKENS_PER_TILE
    assert placeholders(processor, ids[mask]) == 0


@pytest.mark.parametrize("markers", ["none", "index", "separators"])
def test_an_image_inside_of_an_answer_is_no_target(make_processor, markers):
    processor = make_processor(tiling="dynamic", markers=markers)
    parts = ["see ", picture(56, 84), " there"]
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    batch = [turn, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    for options in ({"return_tensors": "pt"}, {"return_tensors": "np"}, {}):
        output = processor.apply_chat_template(
            batch,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True},
            **options,
        )
        rows = zip(output["input_ids"], output["assistant_masks"], strict=True)
        targets = [[int(i) for i, m in zip(*row, strict=True) if m] for row in rows]
        assert [processor.decode(row) for row in targets] == [" see  there</s>", " b</s>"]


def test_no_text_in_a_conversation_becomes_an_image(processor):
    messages = [
        {"role": "system", "content": "<image>"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<image></s><ima"},
                {"type": "text", "text": "ge>"},
                {"type": "image", "image": picture()},
            ],
        },
        {"role": "assistant", "content": "<image>"},
    ]
    output = run_chat(processor, messages)
    assert placeholders(processor, output["input_ids"]) == TOKENS_PER_TILE
    decoded = processor.decode(output["input_ids"][0])
    assert decoded.count("<image>") == TOKENS_PER_TILE + 4
    assert messages[0]["content"] == "<image>"  # the caller's messages are left as they were
    rendered = processor.apply_chat_template(messages)
    assert (
        processor(text=rendered, images=picture())["input_ids"][0]
        == output["input_ids"][0].tolist()
    )


def test_the_source_of_an_image_is_not_text(processor, tmp_path):
    path = tmp_path / "a <image> b<"
    picture().save(path, format="PNG")
    messages = [{"role": "user", "content": [{"type": "image", "path": str(path)}]}]
    assert run_chat(processor, messages)["pixel_values"].shape[0] == 1


def test_raw_placeholders_are_an_explicit_choice(processor):
    messages = [{"role": "user", "content": "<image> what?"}]
    assert processor.apply_chat_template(messages, escape=False) == "User: <image> what?\n"
    assert processor.apply_chat_template(messages).count("<image>") == 0


def test_a_batch_of_conversations_keeps_images_with_their_texts(processor):
    batch = [conversation(), [{"role": "user", "content": "no image"}]]
    output = run_chat(processor, batch, processor_kwargs={"padding": True})
    rows = [placeholders(processor, row) for row in output["input_ids"]]
    assert rows == [TOKENS_PER_TILE, 0]
    assert output["pixel_values"].shape[0] == 1


def test_tools_documents_and_other_fields_are_escaped_too(processor):
    template = "{{ documents[0]['text'] }}{{ messages[0]['name'] }}{{ messages[0]['role'] }}"
    text = processor.apply_chat_template(
        [{"role": "user", "name": "<image>", "content": ""}],
        chat_template=template,
        documents=[{"text": "</s>"}],
    )
    assert text == f"<{ESCAPE_MARK}/s><{ESCAPE_MARK}image>user"


def test_names_of_arguments_of_a_tool_call_are_escaped_too(processor):
    call = {"function": {"name": "f", "arguments": {"<image>": {"type": ["</s>"]}}}}
    text = processor.apply_chat_template(
        [{"role": "assistant", "tool_calls": [call]}],
        chat_template="{{ messages[0]['tool_calls'] | tojson }}",
    )
    assert "<image>" not in text and "</s>" not in text and '"function"' in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "video"}], "Conversation 1, message 1 has a part of type 'video'"),
        (
            [{"type": "text", "text": "a"}, {"type": "audio"}],
            "message 1 has a part of type 'audio'",
        ),
        (["a"], "message 1 has a part of type 'str', but text and images are expected. Write"),
    ],
)
def test_parts_that_are_neither_text_nor_image_are_named_by_place(processor, content, message):
    good = {"role": "user", "content": "a"}
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template([[good], [good, {"role": "user", "content": content}]])
    with pytest.raises(ValueError, match="no messages"):
        processor.apply_chat_template([])


def test_a_template_that_knows_strings_only_accepts_images(make_tokenizer, make_processor):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
    )
    processor = make_processor(tokenizer)
    text = processor.apply_chat_template(conversation())
    assert text.startswith(
        "[system] Answer briefly.\n[user] Left: <image> what?\n[assistant] a cat"
    )
    assert (
        placeholders(processor, run_chat(processor, conversation())["input_ids"]) == TOKENS_PER_TILE
    )


def test_unknown_roles_and_parts_are_refused_by_the_default_template(processor):
    with pytest.raises(Exception, match="must be system, user or assistant, not robot"):
        processor.apply_chat_template([{"role": "robot", "content": "a"}])
    with pytest.raises(Exception, match=r"has a part of type .video.*mm1_hf.video"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}]
        )
