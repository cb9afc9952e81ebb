"""Pre-train a tiny MM1 by the paper's recipe, on captions and text, and see what is the paper's.

The same call trains a model of any size: give your sources, and leave the numbers alone.
"""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, logging

from mm1_hf import (
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.data import MemorySource, from_caption, from_text
from mm1_hf.training import build_mixture, pretrain, train

torch.manual_seed(0)
logging.disable_progress_bar()
folder = Path(tempfile.mkdtemp())

captions = []
for number in range(32):
    colour = ("teal", "orange")[number % 2]
    path = folder / f"{number}.png"
    Image.new("RGB", (40, 30), colour).save(path)
    row = {"image": str(path), "caption": f"all {colour}"}
    captions.append(from_caption(row, source="captions", key=str(number)))
sentences = [f"{n} and {n} make {2 * n}." for n in range(32)]
texts = [from_text({"text": text}, source="texts", key=text) for text in sentences]

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = MM1ForConditionalGeneration.from_parts(
    vision=MM1VisionConfig(image_size=28, patch_size=7, num_attention_heads=2, **sizes),
    connector=MM1ConnectorConfig(num_image_tokens=4, hidden_size=16, depth=1),
    text=MM1TextConfig(vocab_size=256 + 3, num_attention_heads=2, num_key_value_heads=2, **sizes),
    tokenizer=tokenizer,
)

recipe = pretrain(
    weights={"captions": 90, "text": 10},  # MM1's also has interleaved documents
    steps=20,
    batch_size=8,
    sequence_length=64,
    tile_size=None,
    learning_rate=3e-3,  # the law's is for larger models
)
print(recipe.describe())
trainer = train(
    recipe,
    model=model,
    processor=MM1Processor.from_parts(tokenizer=tokenizer, config=model.config),
    mixture=build_mixture(
        recipe,
        {
            "captions": MemorySource(captions, name="captions"),
            "text": MemorySource(texts, name="texts"),
        },
    ),
    output_dir=folder / "run",
    per_device_batch_size=8,
    logging_steps=10,
    use_cpu=True,
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
written = sorted(path.name for path in (folder / "run").iterdir())
print(f"loss {losses[0]:.2f}, then {losses[-1]:.2f}; written: {', '.join(written)}")
assert losses[-1] < losses[0]
