"""Pipelines of transformers around our classes; pictures and text: `journeys/`."""

import pytest
import torch
from transformers import pipeline

from mm1_hf import MM1ForCausalLM, MM1ImageProcessor, MM1TextModel, MM1VisionModel

from ..model import tiny

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


@DTYPES
def test_text_goes_on(make_tokenizer, dtype):
    model = MM1ForCausalLM(tiny.text_config(vocab_size=512)).to(dtype)
    run = pipeline(
        "text-generation", model=model, tokenizer=make_tokenizer("byte_level"), dtype=dtype
    )
    ((answer,), (other,)) = run(["a red cat", "a dog"], max_new_tokens=3, do_sample=False)
    assert answer["generated_text"].startswith("a red cat")
    assert other["generated_text"].startswith("a dog")


@DTYPES
def test_features_are_hidden_states(make_tokenizer, dtype):
    decoder = MM1TextModel(tiny.text_config(vocab_size=512)).to(dtype)
    tokenizer = make_tokenizer("byte_level")
    read = pipeline("feature-extraction", model=decoder, tokenizer=tokenizer, dtype=dtype)
    (found,) = read("a red cat")
    assert len(found) == len(tokenizer("a red cat")["input_ids"]) and len(found[0]) == 24
    tower = MM1VisionModel(tiny.vision_config()).to(dtype)
    image_processor = MM1ImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE})
    see = pipeline(
        "image-feature-extraction", model=tower, image_processor=image_processor, dtype=dtype
    )
    from ..model.processors import picture

    (found,) = see(picture())
    assert len(found) == 17 and len(found[0]) == 32
