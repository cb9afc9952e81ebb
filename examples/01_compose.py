"""Compose an MM1 from a CLIP tower and a Llama decoder, ask it about a picture, save and reload it.

The weights are random and small, so that the example runs anywhere in seconds; with checkpoints,
pass their names: `vision="openai/clip-vit-large-patch14-336", text="HuggingFaceTB/SmolLM2-135M"`.
"""

import tempfile

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mm1_hf import MM1ConnectorConfig, MM1ForConditionalGeneration, MM1Processor

torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
vision = CLIPVisionModel(
    CLIPVisionConfig(**sizes, num_attention_heads=4, image_size=56, patch_size=14)
)
text = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, vocab_size=256))

model = MM1ForConditionalGeneration.from_parts(
    vision=vision,
    text=text,
    connector=MM1ConnectorConfig(num_image_tokens=4, hidden_size=32),
    tokenizer=tokenizer,
).eval()
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, tiling="static")

picture = Image.new("RGB", (120, 80), "teal")
inputs = processor(text="<image> What colour is it?", images=picture, return_tensors="pt")
print({name: tuple(tensor.shape) for name, tensor in inputs.items()})  # five tiles of four tokens
answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    again = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = AutoProcessor.from_pretrained(folder)(
        text="<image> What colour is it?", images=picture, return_tensors="pt"
    )
    assert torch.equal(answer, again.generate(**inputs, max_new_tokens=8, do_sample=False))
print("saved, loaded, and the answer is the same")
