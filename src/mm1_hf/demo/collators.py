"""Batches for the three stages; the processor does the work."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
from mm1_hf.model.processing_mm1 import MM1Processor

_IGNORED = -100


class ContrastiveCollator:
    """Pictures and captions as `CLIPModel` takes them, with its loss asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_processor: MM1ImageProcessor):
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def __call__(self, documents: list) -> dict:
        """Batch `[picture, caption]` documents."""
        pictures, captions = zip(*documents, strict=True)
        tokens = self.tokenizer(
            [caption + self.tokenizer.eos_token for caption in captions],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        pixels = self.image_processor(list(pictures), return_tensors="pt")["pixel_values"]
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "pixel_values": pixels,
            "return_loss": True,
        }


class DocumentCollator:
    """Documents to predict: every token carries a label except images and padding."""

    def __init__(self, processor: MM1Processor):
        self.processor = processor

    def __call__(self, documents: list) -> dict:
        """Batch documents of texts and pictures in reading order."""
        eos = self.processor.tokenizer.eos_token
        texts, images = zip(*(self.processor.interleave(one) for one in documents), strict=True)
        batch = self.processor(
            text=[text + eos for text in texts],
            images=[image for one in images for image in one] or None,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        ids = batch["input_ids"]
        labels = ids.masked_fill(batch["attention_mask"] == 0, _IGNORED)
        labels = labels.masked_fill(ids == self.processor.image_token_id, _IGNORED)
        return {**batch, "labels": labels}


class ConversationCollator:
    """Conversations to learn answering from: only what the assistant says carries labels."""

    def __init__(self, processor: MM1Processor):
        self.processor = processor

    def __call__(self, conversations: list) -> dict:
        """Batch conversations in the messages form of chat templates."""
        batch: Any = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": "right", "return_tensors": "pt"},
        )
        said = torch.as_tensor(batch.pop("assistant_masks")).bool()
        return {**batch, "labels": batch["input_ids"].masked_fill(~said, _IGNORED)}
