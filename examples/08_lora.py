"""Fine-tune an adapter of a small MM1 on two pictures, merge it, and check that nothing was lost.

The weights are random and small, so that the example runs anywhere in seconds; with a checkpoint,
load model and processor with `from_pretrained` and leave the rest as it is.
"""

import tempfile

import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from mm1_hf import (
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.training.adapters import adapter_config

torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
model = MM1ForConditionalGeneration.from_parts(
    vision=MM1VisionConfig(**sizes, num_attention_heads=4, image_size=56, patch_size=14),
    text=MM1TextConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, vocab_size=256),
    connector=MM1ConnectorConfig(num_image_tokens=4, hidden_size=32),
    tokenizer=tokenizer,
)
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, tiling="none")

texts = {"teal": "<image> What colour? Teal.", "gold": "<image> What colour? Gold."}
pictures = [Image.new("RGB", (56, 56), colour) for colour in texts]
inputs = processor(
    text=list(texts.values()), images=pictures, return_tensors="pt", padding_side="right"
)
labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)


def batch(rows: list[int]) -> dict[str, torch.Tensor]:
    picked = {name: tensor[rows] for name, tensor in inputs.items()}  # one tile for each row
    return {**picked, "labels": labels[rows]}


def logits_of(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(**inputs).logits


with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(f"{folder}/base")
    adapted = get_peft_model(model, adapter_config(model, preset="decoder+connector", r=8))
    adapted.print_trainable_parameters()
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=20,
        per_device_train_batch_size=2,
        learning_rate=5e-3,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        use_cpu=True,
    )
    Trainer(adapted, arguments, train_dataset=[0, 1], data_collator=batch).train()
    trained = logits_of(adapted)
    adapted.save_pretrained(f"{folder}/adapter")

    base = MM1ForConditionalGeneration.from_pretrained(f"{folder}/base")
    merged = PeftModel.from_pretrained(base, f"{folder}/adapter").merge_and_unload()
    merged.save_pretrained(f"{folder}/merged")
    again = MM1ForConditionalGeneration.from_pretrained(f"{folder}/merged")
    assert torch.allclose(logits_of(again), trained, atol=1e-3)
print("adapter saved, loaded, merged: the logits are the same")
