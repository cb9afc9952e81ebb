"""Laws of the processor: what is promised, what is made, and text that stays text."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor, AutoProcessor, LlamaTokenizer

import mm1_hf  # noqa: F401  registers the Auto classes
from mm1_hf import MM1ForConditionalGeneration, MM1ImageProcessor, MM1Processor
from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK
from mm1_hf.model.sample_plan_mm1 import MARKER_TOKENS, MARKERS
from mm1_hf.model.tiling_mm1 import TILINGS

from . import tiny
from .processors import TOKENS_PER_TILE, conversation, make_config, picture, placeholders, run_chat

KINDS = ["byte_level", "metaspace", "word_level", "unigram", "word_piece"]

# Counts

image_sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000)) | st.just((1, 1))
odd_sizes = image_sizes | st.sampled_from([(20_000, 100), (100, 20_000)])
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


@pytest.fixture(scope="module")
def marked(make_processor) -> dict[str, MM1Processor]:
    """A processor for every kind of markers."""
    return {markers: make_processor(markers=markers) for markers in MARKERS}


@pytest.fixture(scope="module")
def model():
    # Markers are added to the vocabulary when the processors are made; 512 rows are enough for all.
    return MM1ForConditionalGeneration(make_config(image_token_id=None)).eval()


@settings(max_examples=25)
@given(
    st.lists(st.lists(odd_sizes, max_size=4), min_size=1, max_size=3),
    st.sampled_from(TILINGS),
    st.sampled_from(MARKERS),
)
def test_tokens_promised_are_tokens_made_are_tokens_the_model_takes(
    marked, model, batch, tiling, markers
):
    processor = marked[markers]
    plans = [processor.plan(sizes, tiling=tiling) for sizes in batch]
    output = processor(
        text=["a" + "<image> b" * len(sizes) for sizes in batch],
        images=[[picture(*size) for size in sizes] for sizes in batch],
        tiling=tiling,
        padding=True,
        return_tensors="pt",
        return_mm_token_type_ids=True,
    )
    of_images = output.pop("mm_token_type_ids").sum(dim=1)
    assert of_images.tolist() == [sum(plan.num_tokens) for plan in plans]
    for sizes, plan in zip(batch, plans, strict=True):
        told = processor._get_num_multimodal_tokens(image_sizes=sizes, tiling=tiling)
        assert told["num_image_tokens"] == list(plan.num_tokens)
        assert told["num_image_patches"] == list(plan.num_tiles)
    model.config.image_token_id = model.model.config.image_token_id = processor.image_token_id
    with torch.no_grad():
        logits = model(**output).logits  # counts tiles and placeholders itself
    assert logits.shape[:2] == output["input_ids"].shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("markers", ["index", "separators"])
def test_markers_are_one_token_each_for_every_tokenizer(make_processor, kind, markers):
    processor = make_processor(kind, tiling="dynamic", markers=markers)
    output = processor(text="a <image> b<image>", images=[picture(56, 84), picture(56, 56)])
    ids = torch.tensor(output["input_ids"][0])
    plan = processor.plan([(56, 84), (56, 56)])
    assert int(torch.isin(ids, torch.tensor(processor.image_token_ids)).sum()) == sum(
        plan.num_tokens
    )
    assert plan.num_tokens == ((7 * 7, 5 * 7) if markers == "index" else (7 * 4 + 6, 5 * 4 + 4))
    # A user who writes markers writes text.
    typed = processor.tokenizer.encode(processor.escape("".join(MARKER_TOKENS[markers])))
    assert not set(typed) & set(processor.image_token_ids)


def test_markers_must_be_in_the_vocabulary_of_tokenizer_and_model(make_tokenizer):
    tokenizer = make_tokenizer()
    plain = MM1Processor.from_parts(tokenizer=tokenizer, config=make_config())
    with pytest.raises(ValueError, match="lacks 32 tokens of markers='index', such as '<index_0>'"):
        MM1Processor(plain.image_processor, tokenizer, 4, markers="index")
    config = make_config(text_config=tiny.text_config(vocab_size=len(tokenizer)))
    model = MM1ForConditionalGeneration(config)
    with pytest.raises(ValueError, match=r"'<index_31>' has id \d+, .*resize_token_embeddings"):
        MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, markers="index")
    model.resize_token_embeddings(len(tokenizer))
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, markers="index")
    inputs = processor(text="<image>", images=picture(), tiling="static", return_tensors="pt")
    assert model(**inputs).logits.shape[1] == 5 * (TOKENS_PER_TILE + 3)
    with pytest.raises(ValueError, match="markers is 'arrows', but it must be one of"):
        MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, markers="arrows")


def test_the_images_of_a_text_are_its_sample_however_they_come(make_processor):
    processor = make_processor(tiling="dynamic")
    texts, images = ["<image>", "b", "<image><image><image>"], [picture(56, 56)] * 4
    flat = processor(text=texts, images=images, padding=True, return_tensors="pt")
    nested = processor(
        text=texts, images=[images[:1], [], images[1:]], padding=True, return_tensors="pt"
    )
    assert len(flat["pixel_values"]) == 5 + 3
    for name, value in flat.items():
        assert torch.equal(value, nested[name])
    array = np.zeros((3, 56, 56, 3), np.uint8)
    assert len(processor(text=texts[2], images=array)["pixel_values"]) == 3
    assert len(processor(images=images)["pixel_values"]) == 4 * 5  # without text, each is alone


@pytest.mark.parametrize("tiling", ["static", "dynamic"])
@pytest.mark.parametrize("markers", MARKERS)
def test_the_order_of_samples_and_the_side_of_padding_do_not_matter(marked, model, tiling, markers):
    processor = marked[markers]
    model.config.image_token_id = model.model.config.image_token_id = processor.image_token_id
    texts = ["<image> a", "no picture at all", "one <image> and <image>!"]
    images = [[picture(40, 90, (9, 9, 9))], [], [picture(9, 9), picture(70, 70, (90, 1, 1))]]

    def logits(order, **options):
        inputs = processor(
            text=[texts[n] for n in order],
            images=[images[n] for n in order] if any(images[n] for n in order) else None,
            tiling=tiling,
            padding=True,
            return_tensors="pt",
            **options,
        )
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            made = model(**inputs, position_ids=positions).logits
        rows = zip(order, made, inputs["attention_mask"], strict=True)
        return {n: row[mask.bool()] for n, row, mask in rows}

    expected = {n: logits([n])[n] for n in range(3)}
    for made in (logits([0, 1, 2]), logits([2, 0, 1]), logits([0, 1, 2], padding_side="right")):
        for n in range(3):
            torch.testing.assert_close(made[n], expected[n], rtol=0, atol=1e-4)


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
        kind,
        tiling="dynamic",
        resize_policy="crop",
        image_mean=[0.1, 0.2, 0.3],
        markers="separators",
        max_tiles=6,
        max_split_images=4,
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
    processor.image_processor.min_tiles = 2
    processor.num_image_tokens = 9
    processor.chat_template = processor.chat_template.replace("User", "Human")
    processor.save_pretrained(tmp_path)
    loaded = MM1Processor.from_pretrained(tmp_path)
    assert loaded.image_processor.tiling == "static" and loaded.image_processor.min_tiles == 2
    assert loaded.num_image_tokens == 9
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
