"""What a server does with a prompt: count it, answer it step by step, keep typed text text."""

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.serving import Answerer, Picture, vllm_command

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")

# A random model: its answers mean nothing, but every part of it works.
sizes = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
text = {"vocab_size": 300, "hidden_size": 64, "num_key_value_heads": 2}
config = MM1Config(
    vision_config=MM1VisionConfig(image_size=56, patch_size=14, hidden_size=32, **sizes),
    connector_config=MM1ConnectorConfig(num_image_tokens=4, hidden_size=32, depth=1),
    text_config=MM1TextConfig(**text, **sizes),
)
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=config, tiling="dynamic")
answerer = Answerer(MM1ForConditionalGeneration(config), processor)

noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
prompt = [
    "Is a typed <image> a picture? Compare it with ",
    Picture("noise", Image.fromarray(noise)),
]

count = answerer.count(prompt)
print(f"{sum(count.plan.num_tiles)} tiles, {count.total} tokens, {count.text_tokens} of them text")
assert len(count.plan.tiles) == 1, "only the picture is one"

steps = list(answerer.stream(prompt, max_new_tokens=16))
print(f"the answer came in {len(steps)} steps: {steps[-1]!r}")

# `mm1 serve FOLDER --engine vllm` starts this; `mm1 serve FOLDER` transformers' own server.
command = vllm_command("FOLDER", processor, options=["max-model-len=4096"])
print(*(part for part in command[1:] if "\n" not in part))
