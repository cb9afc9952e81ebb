"""Turn a CLIP tower, a Qwen2 decoder and a LLaVA into parts of MM1, and a LLaVA back again.

The weights are random and small, so that the example runs anywhere in seconds; with checkpoints,
give a folder or a name, such as `convert("llava-hf/llava-1.5-7b-hf", "mm1-llava")`.
"""

import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    logging,
)

from mm1_hf import MM1ConnectorConfig, MM1ForConditionalGeneration
from mm1_hf.conversion import ConversionOptions, convert, convert_back

torch.manual_seed(0)
logging.disable_progress_bar()
sizes = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
vision = CLIPVisionConfig(**sizes, image_size=56, patch_size=14)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)

    # Parts: a vision tower that returns its last but one layer, and a decoder.
    CLIPVisionModel(vision).save_pretrained(folder / "clip")
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=256)).save_pretrained(
        folder / "qwen2"
    )
    options = ConversionOptions(feature_layer=-2, use_final_norm=False)
    print(convert(folder / "clip", folder / "tower", options=options))
    print(convert(folder / "qwen2", folder / "decoder"))
    model = MM1ForConditionalGeneration.from_parts(
        vision=folder / "tower",
        text=folder / "decoder",
        connector=MM1ConnectorConfig(num_image_tokens=4, hidden_size=32),
    )
    print(f"composed of both: {model.num_parameters():,} parameters")

    # A whole model: the same logits, and the same bits on the way back.
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**sizes, vocab_size=256),
            image_token_index=255,
            image_seq_length=16,
        )
    ).eval()
    theirs.save_pretrained(folder / "llava")
    print(convert(folder / "llava", folder / "mm1"))
    ours = AutoModelForImageTextToText.from_pretrained(folder / "mm1").eval()
    inputs = {
        "input_ids": torch.tensor([[1, *[255] * 16, 2, 3, 4]]),
        "pixel_values": torch.randn(1, 3, 56, 56),
    }
    with torch.no_grad():
        difference = (ours(**inputs).logits - theirs(**inputs).logits).abs().max()
    print(f"logits differ by {difference:.1e} at most")
    convert_back(folder / "mm1", folder / "llava-again")
    again = LlavaForConditionalGeneration.from_pretrained(folder / "llava-again")
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
print("converted back, and every bit is the same")
