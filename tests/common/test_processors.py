"""Arguments, defaults and files of both processors, as transformers has them."""

import copy
import inspect
import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from mm1_hf import MM1ImageProcessor, MM1Processor

from ..model import processors


@pytest.fixture(scope="module")
def processor(make_tokenizer) -> MM1Processor:
    return MM1Processor.from_parts(
        tokenizer=make_tokenizer("byte_level"), config=processors.make_config()
    )


def call(processor: MM1Processor, **kwargs) -> dict:
    return processor(
        text="a cat <image>", images=processors.picture(), return_tensors="pt", **kwargs
    )


def test_parts_loaded_one_by_one_make_the_same_processor(processor, tmp_path):
    (written, *_) = processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())
    assert str(written)
    whole = AutoProcessor.from_pretrained(tmp_path)
    parts = MM1Processor(
        image_processor=AutoImageProcessor.from_pretrained(tmp_path),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path),
        num_image_tokens=processor.num_image_tokens,
        chat_template=whole.chat_template,
    )
    assert parts.to_dict() == whole.to_dict() == processor.to_dict()
    assert json.loads(whole.to_json_string()) == json.loads(processor.to_json_string())


def test_settings_given_while_loading_reach_the_part_they_belong_to(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = MM1Processor.from_pretrained(tmp_path, cls_token="(CLS)", do_normalize=False)
    assert again.tokenizer.cls_token == "(CLS)"
    assert again.image_processor.do_normalize is False


def test_settings_of_parts_hold_until_a_call_says_otherwise(processor):
    own = copy.deepcopy(processor)
    own.image_processor.do_normalize = False
    assert call(own)["pixel_values"].min() >= 0
    assert call(own, do_normalize=True)["pixel_values"].min() < 0
    assert call(own)["pixel_values"].min() >= 0
    assert call(processor, images_kwargs={"do_normalize": False})["pixel_values"].min() >= 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"padding": "max_length", "max_length": 40},
        {"text_kwargs": {"padding": "max_length", "max_length": 40}},
        {"text_kwargs": {"padding": "max_length"}, "max_length": 40},
        {"common_kwargs": {}, "padding": "max_length", "max_length": 40},
    ],
)
def test_arguments_reach_the_tokenizer_flat_and_nested(processor, kwargs):
    assert call(processor, **kwargs)["input_ids"].shape == (1, 40)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"images_kwargs": {"do_normalize": False}, "do_normalize": False},
        {"text_kwargs": {"padding": "do_not_pad"}, "padding": "max_length"},
    ],
)
def test_an_argument_given_twice_is_an_error(processor, kwargs):
    with pytest.raises(ValueError):
        call(processor, **kwargs)


def test_no_argument_has_two_homes(processor):
    own = set(inspect.signature(type(processor).__init__).parameters) - {"self", "kwargs"}
    called = set(inspect.signature(processor.__call__).parameters) - {"kwargs"}
    kinds = processor.valid_processor_kwargs.__annotations__
    nested = {name for kind in kinds.values() for name in getattr(kind, "__annotations__", {})}
    assert not called & nested and not called & set(processor.get_attributes())
    assert not (own - {"chat_template"}) & nested
    parameters = inspect.signature(processor.__call__).parameters.values()
    optional = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    assert all(one.default is None for one in optional)


def test_text_alone_makes_no_pixels_and_pictures_alone_are_the_image_processors(processor):
    assert "pixel_values" not in processor(text="a cat", return_tensors="pt")
    both, alone = (
        call(processor),
        processor.image_processor(processors.picture(), return_tensors="pt"),
    )
    assert torch.equal(both["pixel_values"], alone["pixel_values"])
    plain = processor.tokenizer("a cat", return_tensors="pt")
    assert torch.equal(
        processor(text="a cat", return_tensors="pt")["input_ids"], plain["input_ids"]
    )
    ids = both["input_ids"][0]
    assert processor.decode(ids) == processor.tokenizer.decode(ids)


def test_names_of_inputs_are_those_of_the_output(processor):
    assert set(call(processor)) == set(processor.model_input_names)


def test_where_images_stand_in_the_text_is_told_on_request(processor):
    outputs = processor(
        text="a cat <image>!",
        images=processors.picture(),
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    offsets = outputs["text_replacement_offsets"]
    assert len(offsets) == 1 and len(offsets[0]) == 1


def test_a_chat_template_is_saved_beside_and_loaded_and_goes_nowhere_else(processor, tmp_path):
    own = copy.deepcopy(processor)
    own.chat_template = "{{ greeting }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    own.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "chat_template.jinja").read_text() == own.chat_template
    again = AutoProcessor.from_pretrained(tmp_path / "one")
    assert again.chat_template == own.chat_template
    messages = [{"role": "user", "content": "x"}]
    assert again.apply_chat_template(messages, greeting="Hello ") == "Hello x"
    own.chat_template = {"default": "a", "../../outside": "b"}
    with pytest.raises(ValueError):
        own.save_pretrained(tmp_path / "two")
    assert not list(tmp_path.rglob("outside*"))


def test_pixels_take_any_dtype_they_are_cast_to(processor):
    for dtype in (torch.float16, torch.bfloat16):
        batch = call(processor).to(dtype=dtype)
        assert batch["pixel_values"].dtype is dtype
        assert batch["input_ids"].dtype is torch.int64


@pytest.mark.parametrize("kind", ["pil", "numpy", "torch"])
def test_one_picture_and_several_come_as_flat_tiles(kind):
    pictures = [processors.picture(20 + 5 * index, 30) for index in range(3)]
    arrays = [np.asarray(picture) for picture in pictures]
    given = {
        "pil": pictures,
        "numpy": arrays,
        "torch": [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays],
    }[kind]
    image_processor = MM1ImageProcessor(size={"height": 28, "width": 28})
    assert image_processor(given[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)
    assert image_processor(given, return_tensors="pt")["pixel_values"].shape == (3, 3, 28, 28)


def test_colour_modes_may_be_mixed_in_a_batch():
    pictures = [processors.picture(), processors.picture().convert("L")]
    image_processor = MM1ImageProcessor(size={"height": 28, "width": 28})
    assert len(image_processor(pictures, return_tensors="pt")["pixel_values"]) == 2


def test_settings_of_one_image_processor_are_not_those_of_another(tmp_path):
    one, other = MM1ImageProcessor(), MM1ImageProcessor()
    one.image_mean = [0.1, 0.2, 0.3]
    one.size["height"] = 12
    assert list(other.image_mean) != [0.1, 0.2, 0.3]
    assert other.size["height"] != 12
    again = MM1ImageProcessor.from_dict(other.to_dict(), do_normalize=False)
    assert again.do_normalize is False
    assert again.size == other.size
