"""A converted LLaVA answers as the original does, from the picture to the words, and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mm1_hf import MM1ForConditionalGeneration, MM1Processor
from mm1_hf.conversion import ConversionOptions, convert, convert_back

from ..conversion.originals import assert_bit_equal, edit_config, llava_config, rewrite
from ..model import tiny

WORDS = "<pad> <s> </s> <unk> USER: ASSISTANT: what is this a picture of cat dog and the in".split()
IMAGE_ID = len(WORDS)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    made.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert made.convert_tokens_to_ids("<image>") == IMAGE_ID
    return made


def their_processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": tiny.SIDE},
            crop_size={"height": tiny.SIDE, "width": tiny.SIDE},
            image_mean=[0.5, 0.4, 0.3],
        ),
        tokenizer=tokenizer(),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def llava(folder: Path, **changes) -> LlavaForConditionalGeneration:
    """A random LLaVA, and its checkpoint."""
    config = llava_config(**{"image_token_index": IMAGE_ID, **changes})
    model = tiny.randomised(LlavaForConditionalGeneration(config))
    model.save_pretrained(folder)
    return model


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Pictures of noise; sizes are height and width."""
    return [
        Image.fromarray(np.random.randint(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes
    ]


def assert_same_answers(ours, theirs) -> None:
    """Logits and greedy answers to given token ids and pixels."""
    ids = torch.tensor([tiny.prompt([5, 6], [IMAGE_ID] * 16, [7, 8, 9, 10])] * 2)
    pixels = tiny.tiles(2)
    expected = theirs(input_ids=ids, pixel_values=pixels).logits
    assert expected.std() > 0.05
    other = theirs(input_ids=ids, pixel_values=tiny.tiles(2)).logits
    assert (other - expected).abs().max() > 0.01, "the pictures hardly matter"
    found = ours(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    answers = [
        model.generate(input_ids=ids, pixel_values=pixels, **GREEDY) for model in (ours, theirs)
    ]
    assert torch.equal(*answers)


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("vision", ["clip", "siglip"])
def test_logits_and_greedy_answers_are_llavas(vision, layer, tmp_path):
    theirs = llava(tmp_path / "theirs", vision=vision, vision_feature_layer=layer)
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = MM1ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    assert ours.config.vision_config.model_type == "mm1_vision"
    assert_same_answers(ours, theirs)


def test_another_decoder_than_llama_converts_too(tmp_path):
    theirs = llava(tmp_path / "theirs", text="qwen2")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert_same_answers(AutoModelForImageTextToText.from_pretrained(tmp_path / "ours"), theirs)


def test_a_tied_head_stays_tied(tmp_path):
    theirs = llava(tmp_path / "theirs", tie_word_embeddings=True)
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = MM1ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    assert ours.lm_head.weight is ours.get_input_embeddings().weight
    assert_same_answers(ours, theirs)


@pytest.mark.parametrize("layout", ["files of version 5", "files of version 4", "in memory"])
def test_every_layout_of_names_gives_the_same_model(layout, tmp_path):
    theirs = llava(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "expected")

    def rename(tensors):
        names = list(tensors)
        assert any(name.startswith("language_model.model.") for name in names)
        for name in names:
            new = name
            if layout == "files of version 4":
                new = name.replace("vision_tower.", "vision_tower.vision_model.")
            tensors[new] = tensors.pop(name)
        if layout == "in memory":
            tensors.clear()
            tensors.update({name: x.clone() for name, x in theirs.state_dict().items()})

    rewrite(tmp_path / "theirs", rename)
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours, expected = (
        MM1ForConditionalGeneration.from_pretrained(tmp_path / name)
        for name in ("ours", "expected")
    )
    assert_bit_equal(ours, expected)
    convert_back(tmp_path / "ours", tmp_path / "again")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert_bit_equal(again, theirs)


def save_as_version_4(folder: Path) -> None:
    """The files that version 4 wrote: image processor and chat template stand alone."""
    saved = json.loads((folder / "processor_config.json").read_text())
    images = saved.pop("image_processor")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**images, "image_processor_type": "CLIPImageProcessor"})
    )
    saved["processor_class"] = "LlavaProcessor"
    (folder / "processor_config.json").write_text(json.dumps(saved))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))


@pytest.mark.parametrize("version", [5, 4])
def test_from_picture_and_text_to_the_answer_nothing_differs(version, tmp_path):
    theirs = llava(tmp_path / "theirs")
    processor = their_processor()
    processor.save_pretrained(tmp_path / "theirs")
    if version == 4:
        save_as_version_4(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").eval()
    own_processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert type(own_processor) is MM1Processor
    assert ours.config.image_mean == [0.5, 0.4, 0.3]

    question = [{"type": "image"}, {"type": "text", "text": "what is this picture of"}]
    conversation = [{"role": "user", "content": question}]
    prompts = [
        p.apply_chat_template(conversation, add_generation_prompt=True)
        for p in (own_processor, processor)
    ]
    assert prompts[0] == prompts[1]
    answers = []
    # Of their own size no pixel is resampled, so nothing may differ.
    images = pictures((tiny.SIDE, tiny.SIDE), (tiny.SIDE, tiny.SIDE))
    logits = []
    for model, made_by in ((ours, own_processor), (theirs, processor)):
        inputs = made_by(text=[prompts[0]] * 2, images=images, return_tensors="pt")
        assert inputs["input_ids"].shape == (2, 16 + 7)
        logits.append(model(**inputs).logits)
        answers.append(model.generate(**inputs, **GREEDY))
    scale = logits[1].abs().max().item()
    torch.testing.assert_close(*logits, atol=1e-5 * scale, rtol=0)
    assert torch.equal(*answers)


def test_pictures_of_any_size_differ_by_one_step_at_most(tmp_path):
    llava(tmp_path / "theirs")
    processor = their_processor()
    processor.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    own_processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    images = pictures((40, 60), (64, 30), (29, 28), (13, 200))
    found, expected = (
        p(text=["USER: <image>"] * 4, images=images, return_tensors="pt")
        for p in (own_processor, processor)
    )
    assert torch.equal(found["input_ids"], expected["input_ids"])
    step = 1 / 255 / min(own_processor.image_processor.image_std)
    torch.testing.assert_close(
        found["pixel_values"], expected["pixel_values"], atol=1.01 * step, rtol=0
    )


def test_the_processor_comes_back_too(tmp_path):
    theirs = llava(tmp_path / "theirs")
    processor = their_processor()
    processor.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "again")
    assert_bit_equal(LlavaForConditionalGeneration.from_pretrained(tmp_path / "again"), theirs)
    again = LlavaProcessor.from_pretrained(tmp_path / "again")
    text = "USER: <image> what is this ASSISTANT:"
    inputs = {"text": text, "images": pictures((40, 60))[0], "return_tensors": "pt"}
    found, expected = again(**inputs), processor(**inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert again.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', expected 'gelu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
        ({"vision_feature_layer": [-1, -2]}, r"vision_feature_layer is \[-1, -2\]"),
    ],
)
def test_what_mm1_would_compute_otherwise_is_refused(changes, message, tmp_path):
    llava(tmp_path / "theirs")
    edit_config(tmp_path / "theirs", **changes)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("setting", [{"resample": 2}, {"do_pad": True}, {"do_resize": False}])
def test_pixels_that_ours_cannot_make_are_refused(setting, tmp_path):
    llava(tmp_path / "theirs")
    their_processor().save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "processor_config.json"
    saved = json.loads(path.read_text())
    saved["image_processor"] |= setting
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=f"cannot make the pixels .*{next(iter(setting))} is"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_the_length_of_the_decoder_is_a_choice(tmp_path):
    llava(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours", options=ConversionOptions(max_positions=64))
    config = MM1ForConditionalGeneration.from_pretrained(tmp_path / "ours").config
    assert config.text_config.max_position_embeddings == 64
