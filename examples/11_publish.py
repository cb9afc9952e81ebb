"""Publish a model into a folder, after a rehearsal in a clean process, and ask the doctor."""

import tempfile
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, logging

from mm1_hf import (
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.hub import publish
from mm1_hf.hub.doctor import examine

logging.set_verbosity_error()
logging.disable_progress_bar()

# A small model with noise for weights; yours comes from a run: publish("runs/sft", …).
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = MM1ForConditionalGeneration.from_parts(
    vision=MM1VisionConfig(**sizes, num_attention_heads=4, image_size=28, patch_size=7),
    connector=MM1ConnectorConfig(hidden_size=16, num_image_tokens=4, depth=1),
    text=MM1TextConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, vocab_size=320, eos_token_id=256
    ),
    tokenizer=tokenizer,
)
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, tiling="static")
model.generation_config.eos_token_id = tokenizer.eos_token_id

with tempfile.TemporaryDirectory() as scratch:
    # repo_id="you/your-model" uploads; without it, a folder laid out like a repository is written.
    published = publish(
        model, processor=processor, folder=Path(scratch) / "my-mm1", license="apache-2.0"
    )
    print(f"{len(published.files)} files, {sum(published.files.values()):,} bytes")
    print(published.card[published.card.index("## Use") :][:400])

    diagnosis = examine(published.folder, fresh_processes=False)
    print(diagnosis.table())
    assert not diagnosis.failed
