"""Tiles may travel as uint8: the model normalises them as the processor would have."""

import pytest
import torch
from PIL import Image

from mm1_hf import MM1Config, MM1ForConditionalGeneration, MM1Processor, MM1VisionModel

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}


@pytest.fixture
def config() -> MM1Config:
    return MM1Config(
        vision_config=dict(SIZES, num_attention_heads=2, image_size=14, patch_size=7),
        connector_config={"connector_type": "average_pool", "num_image_tokens": 4},
        text_config=dict(SIZES, num_attention_heads=2, num_key_value_heads=2, vocab_size=500),
    )


def test_uint8_tiles_give_the_logits_of_normalised_tiles(config, make_tokenizer):
    processor = MM1Processor.from_parts(
        tokenizer=make_tokenizer(), config=config, image_mean=(0.5, 0.4, 0.3)
    )
    assert config.image_mean == [0.5, 0.4, 0.3], "the model must normalise as the processor does"
    model = MM1ForConditionalGeneration(config).eval()
    picture = Image.effect_noise((30, 20), 90).convert("RGB")
    floats = processor(text="<image> a", images=picture, return_tensors="pt")
    whole = processor(
        text="<image> a",
        images=picture,
        return_tensors="pt",
        images_kwargs={"do_rescale": False, "do_normalize": False},
    )
    assert whole["pixel_values"].dtype == torch.uint8
    with torch.no_grad():
        torch.testing.assert_close(
            model(**whole).logits, model(**floats).logits, rtol=1e-5, atol=1e-6
        )


def test_the_tower_alone_refuses_uint8(config):
    with pytest.raises(ValueError, match="normalised floats"):
        MM1VisionModel(config.vision_config)(torch.zeros(1, 3, 14, 14, dtype=torch.uint8))
