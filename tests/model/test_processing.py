"""Laws of the processor: what is promised, what is made, and text that stays text."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, normalizers
from transformers import AutoImageProcessor, AutoProcessor, LlamaTokenizer

import mm1_hf  # noqa: F401  registers the Auto classes
from mm1_hf import MM1Config, MM1ImageProcessor, MM1Processor
from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK

TOKENS_PER_TILE = 4


def make_config(**kwargs) -> MM1Config:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MM1Config(
        vision_config=small | {"image_size": 28, "intermediate_size": 16},
        connector_config={"connector_type": "average_pool", "num_image_tokens": TOKENS_PER_TILE},
        text_config=small | {"vocab_size": 512, "intermediate_size": 16, "num_key_value_heads": 2},
        **kwargs,
    )


@pytest.fixture(scope="module")
def make_processor(make_tokenizer):
    def make(tokenizer="byte_level", **kwargs) -> MM1Processor:
        if isinstance(tokenizer, str):
            tokenizer = make_tokenizer(tokenizer)
        return MM1Processor.from_parts(tokenizer=tokenizer, config=make_config(), **kwargs)

    return make


@pytest.fixture(scope="module")
def processor(make_processor) -> MM1Processor:
    return make_processor()


def picture(height: int = 20, width: int = 30, colour=(200, 30, 90)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def placeholders(processor, input_ids) -> int:
    return int((torch.as_tensor(input_ids) == processor.image_token_id).sum())


# Counts

image_sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000)) | st.just((1, 1))
literals = st.sampled_from(["<image>", "<image", "</s>", "<s>", ESCAPE_MARK, "<pad>"])
texts = st.lists(literals | st.text(max_size=8), max_size=4).map("".join)


@settings(max_examples=12)
@given(
    st.lists(st.lists(image_sizes | texts, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["none", "static"]),
)
def test_tokens_promised_are_tokens_made_are_tokens_consumed(processor, samples, tiling):
    made = [
        processor.interleave([s if isinstance(s, str) else picture(*s) for s in segments])
        for segments in samples
    ]
    sizes = [s for segments in samples for s in segments if not isinstance(s, str)]
    promised = processor.plan(sizes, tiling=tiling)
    output = processor(
        text=[sample.text for sample in made],
        images=[sample.images for sample in made],
        tiling=tiling,
        padding=True,
        return_tensors="pt",
    )
    num_tiles = output["pixel_values"].shape[0] if "pixel_values" in output else 0
    assert sum(promised.num_tiles) == num_tiles
    assert sum(promised.num_tokens) == num_tiles * TOKENS_PER_TILE
    assert sum(promised.num_tokens) == placeholders(processor, output["input_ids"])
    per_sample = iter(promised.num_tokens)
    for row, sample in zip(output["input_ids"], made, strict=True):
        wanted = sum(next(per_sample) for _ in sample.images)
        assert placeholders(processor, row) == wanted


def test_serving_engines_are_told_the_same_counts(processor):
    sizes = [(20, 30), (500, 10)]
    data = processor._get_num_multimodal_tokens(image_sizes=sizes, tiling="static")
    assert data["num_image_patches"] == [5, 5]
    assert data["num_image_tokens"] == [5 * TOKENS_PER_TILE] * 2
    assert processor._get_num_multimodal_tokens(sizes)["num_image_patches"] == [1, 1]


def test_output_holds_only_what_a_model_takes(processor):
    output = processor(text="<image> a", images=picture())
    assert set(output) == {"input_ids", "attention_mask", "pixel_values"}
    assert set(processor(text="a")) == {"input_ids", "attention_mask"}
    assert set(processor(images=picture())) == {"pixel_values"}
    assert set(processor.model_input_names) == {"input_ids", "attention_mask", "pixel_values"}
    marked = processor(text="<image> a", images=picture(), return_mm_token_type_ids=True)
    is_image = torch.tensor(marked["input_ids"]) == processor.image_token_id
    assert torch.equal(torch.tensor(marked["mm_token_type_ids"]), is_image.long())


def test_images_stand_where_the_text_says(processor):
    output = processor(text="a<image>b<image>c", images=[picture(), picture()])
    ids = output["input_ids"][0]
    run = [processor.image_token_id] * TOKENS_PER_TILE
    a, b, c = (processor.tokenizer.encode(letter) for letter in "abc")
    assert ids == a + run + b + run + c


def test_a_sample_is_the_same_alone_and_in_a_batch(processor):
    texts = ["one <image> and <image>", "none", "<image> a longer text about a picture"]
    images = [[picture(colour=(i, i, i)) for i in (1, 2)], [], [picture(colour=(3, 3, 3))]]
    batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
    tiles = 0
    for row, (text, own) in enumerate(zip(texts, images, strict=True)):
        alone = processor(text=text, images=own, return_tensors="pt")
        kept = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][kept], alone["input_ids"][0])
        assert torch.equal(kept, kept.sort().values)  # padded on the left
        if own:
            expected = batch["pixel_values"][tiles : tiles + len(own)]
            assert torch.equal(expected, alone["pixel_values"])
        tiles += len(own)
    right = processor(text=texts, images=images, padding=True, padding_side="right")
    assert right["attention_mask"][1][0] == 1 and right["attention_mask"][1][-1] == 0


# Bad input


@pytest.mark.parametrize(
    ("text", "num_images", "message"),
    [
        ("<image>", None, "Sample 0: .* 1 placeholders .*0 images were given"),
        ("a", 1, "Sample 0: .* 0 placeholders .*1 images were given"),
        ("<image><image>", 1, "Sample 0: .* 2 placeholders"),
        (["<image>", "<image>"], 1, "Sample 1: .*together have 2, but 1 images"),
        (["<image>", "a"], 2, "together have 1, but 2 images"),
        (["a", "<image>"], [1, 0], "Sample 0: the text has 0 placeholders .*1 images"),
        (["<image>", "<image>"], [1, 2], "Sample 1: the text has 1 placeholders .*2 images"),
        (["<image>", "a"], [1], "lists for 1 samples, but text has 2"),
        (["a", 3], None, "Sample 1 of text is of type int"),
    ],
)
def test_wrong_image_counts_name_the_sample(processor, text, num_images, message):
    if isinstance(num_images, list):
        images = [[picture()] * number for number in num_images]
    else:
        images = None if num_images is None else [picture()] * num_images
    with pytest.raises(ValueError, match=message):
        processor(text=text, images=images)


def test_a_bad_image_is_named_by_sample(processor):
    with pytest.raises(ValueError, match="Sample 1, image 0 is None"):
        processor(text=["a", "<image>"], images=[[], [None]])
    with pytest.raises(ValueError, match="at least one of them"):
        processor()


def test_truncation_never_cuts_an_image(processor):
    text, images = "<image> and then some words", [picture()]
    kept = processor(text=text, images=images, truncation=True, max_length=TOKENS_PER_TILE + 1)
    assert placeholders(processor, kept["input_ids"]) == TOKENS_PER_TILE
    for return_tensors in (None, "pt"):
        with pytest.raises(
            ValueError, match="Sample 1: truncation to 3 tokens leaves 3 of 4 image placeholders"
        ):
            processor(
                text=["abc", text],
                images=[[], images],
                truncation=True,
                max_length=3,
                padding=True,
                return_tensors=return_tensors,
            )


# Untrusted text

KINDS = ["byte_level", "metaspace", "word_level"]


@pytest.mark.parametrize("kind", KINDS)
def test_escaped_text_is_tokenised_as_if_there_were_no_control_tokens(make_processor, kind):
    processor = make_processor(kind)

    @given(texts)
    def check(text):
        text = text.replace(ESCAPE_MARK, "")
        escaped = processor.tokenizer.encode(processor.escape(text), add_special_tokens=False)
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


# Chat


def conversation(*, answer: str = "a cat") -> list[dict]:
    return [
        {"role": "system", "content": "Answer briefly."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Left: "},
                {"type": "image", "image": picture()},
                {"type": "text", "text": " what?"},
            ],
        },
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]


def run_chat(processor, messages, **kwargs):
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )


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
    with pytest.raises(Exception, match="must be of type text or image, not video"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}]
        )


# Building


def test_from_parts_makes_processor_tokenizer_and_configuration_agree(make_tokenizer):
    config = make_config()
    tokenizer = make_tokenizer(pad_token=None)
    processor = MM1Processor.from_parts(
        tokenizer=tokenizer, config=config, tiling="static", resize_policy="pad"
    )
    assert config.image_token_id == processor.image_token_id == len(tokenizer) - 1
    assert tokenizer.image_token == "<image>" and tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "</s>"
    assert processor.num_image_tokens == TOKENS_PER_TILE
    assert processor.image_processor.size == {"height": 28, "width": 28}
    assert processor.image_processor.tiling == "static"
    again = MM1Processor.from_parts(tokenizer=tokenizer, config=config)
    assert (
        again.image_token_id == processor.image_token_id
        and len(tokenizer) == processor.image_token_id + 1
    )


def test_a_tokenizer_keeps_its_own_image_token(make_tokenizer):
    tokenizer = make_tokenizer(extra_special_tokens={"image_token": "[IMG]"})
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())
    assert processor.image_token == "[IMG]"
    text = processor.apply_chat_template(conversation())
    assert text.count("[IMG]") == 1
    assert placeholders(processor, processor(text=text, images=picture())["input_ids"]) == 4


def test_disagreements_are_named_with_their_remedy(make_tokenizer):
    with pytest.raises(ValueError, match=r"has id \d+, but config.image_token_id is 7"):
        MM1Processor.from_parts(tokenizer=make_tokenizer(), config=make_config(image_token_id=7))
    config = make_config()
    config.text_config.vocab_size = 10
    with pytest.raises(ValueError, match=r"has 10 rows: .*resize_token_embeddings"):
        MM1Processor.from_parts(tokenizer=make_tokenizer(), config=config)
    bare = make_tokenizer(pad_token=None, eos_token=None)
    with pytest.raises(ValueError, match="neither a pad token nor an end of sequence"):
        MM1Processor.from_parts(tokenizer=bare, config=make_config())
    bare = make_tokenizer(eos_token=None)
    with pytest.raises(ValueError, match="neither a chat template nor an end of sequence"):
        MM1Processor.from_parts(tokenizer=bare, config=make_config())


def test_parts_that_cannot_work_are_refused(make_tokenizer):
    images = MM1ImageProcessor()
    with pytest.raises(ValueError, match="no added token '<image>'"):
        MM1Processor(image_processor=images, tokenizer=make_tokenizer())
    with pytest.raises(ValueError, match="A fast tokenizer is needed, but object was given"):
        MM1Processor(image_processor=images, tokenizer=object())


# Saving


def assert_same_outputs(first: MM1Processor, second: MM1Processor) -> None:
    for messages in (conversation(), conversation(answer="<image> </s>")):
        expected, made = (
            run_chat(p, messages, return_assistant_tokens_mask=True) for p in (first, second)
        )
        assert set(expected) == set(made)
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(made[name])), name


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_processors_are_equal(make_processor, tmp_path, kind):
    processor = make_processor(
        kind, tiling="static", resize_policy="crop", image_mean=[0.1, 0.2, 0.3]
    )
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MM1Processor
    assert type(loaded.image_processor).__name__.startswith("MM1ImageProcessor")
    assert loaded.to_json_string() == processor.to_json_string()
    assert loaded.tokenizer.padding_side == "left"
    assert_same_outputs(processor, loaded)
    alone = AutoImageProcessor.from_pretrained(tmp_path)
    assert alone.to_json_string() == processor.image_processor.to_json_string()


def test_edited_settings_survive_saving(make_processor, tmp_path):
    processor = make_processor()
    processor.image_processor.tiling = "static"
    processor.num_image_tokens = 9
    processor.chat_template = processor.chat_template.replace("User", "Human")
    processor.save_pretrained(tmp_path)
    loaded = MM1Processor.from_pretrained(tmp_path)
    assert loaded.image_processor.tiling == "static" and loaded.num_image_tokens == 9
    assert "Human: Sure?" in loaded.apply_chat_template(conversation())
    assert_same_outputs(processor, loaded)


def test_a_tokenizer_class_that_rebuilds_its_normalizer_still_escapes_after_loading(
    make_tokenizer, make_processor, tmp_path
):
    vocabulary = make_tokenizer("metaspace").get_vocab()
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[])
    processor = make_processor(tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded.tokenizer) is type(tokenizer)
    text = "a <image> b</s>"
    assert (
        loaded.decode(loaded.tokenizer.encode(loaded.escape(text), add_special_tokens=False))
        == text
    )
    assert_same_outputs(processor, loaded)


def test_nothing_is_printed_or_warned(make_processor, caplog, capfd):
    run_chat(make_processor(), conversation(), return_assistant_tokens_mask=True)
    captured = capfd.readouterr()
    assert not re.search(r"\S", captured.out + captured.err) and not caplog.records
