"""Labels stand where something is to be learned, and nowhere else."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from mm1_hf import MM1Config, MM1ConnectorConfig, MM1Processor, MM1TextConfig, MM1VisionConfig
from mm1_hf.demo.architecture import clip_config
from mm1_hf.demo.canvases import LARGE_CELL, Painter
from mm1_hf.demo.collators import ContrastiveCollator, ConversationCollator, DocumentCollator
from mm1_hf.demo.digits import load_split
from mm1_hf.demo.documents import Conversations, PretrainingDocuments, caption_document
from mm1_hf.demo.vocabulary import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(Painter(load_split().train), seed=0)


def make_processor(tokenizer, tiling):
    config = MM1Config(
        vision_config=MM1VisionConfig(
            image_size=32,
            patch_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        connector_config=MM1ConnectorConfig(num_image_tokens=4, hidden_size=16),
        text_config=MM1TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        ),
    )
    return MM1Processor.from_parts(tokenizer=tokenizer, config=config, tiling=tiling)


@pytest.mark.parametrize("text", ["top left 3, bottom right 7", "Grüße\n\tan <b>alle</b> 漢字 🙂"])
def test_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_digit_is_one_token(tokenizer):
    for value in range(10):
        assert len(tokenizer(f" {value}", add_special_tokens=False)["input_ids"]) == 1


def test_the_tokenizer_depends_on_nothing_but_the_seed(tokenizer):
    again = build_tokenizer(Painter(load_split().train), seed=0)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_the_contrastive_batch_ends_every_caption(tokenizer):
    painter = Painter(load_split().train)
    processor = make_processor(tokenizer, "none")
    documents = [caption_document(painter, np.random.default_rng(seed)) for seed in range(6)]
    batch = ContrastiveCollator(tokenizer, processor.image_processor)(documents)
    assert batch["pixel_values"].shape == (6, 3, 32, 32) and batch["return_loss"]
    last = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"].gather(1, last[:, None]) == tokenizer.eos_token_id).all()


def test_clip_reads_a_caption_at_its_end(tokenizer):
    """It would not if the end of sequence had id 2."""
    torch.manual_seed(0)
    clip = CLIPModel(clip_config(tokenizer)).eval()
    texts = [f"Digits: top left {value}{tokenizer.eos_token}" for value in range(10)]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        embeddings = clip.text_model(**tokens).pooler_output
    distances = torch.cdist(embeddings, embeddings) + torch.eye(10)
    assert distances.min() > 1e-3


def test_documents_label_all_text_and_no_image_or_padding(tokenizer):
    make = PretrainingDocuments(Painter(load_split().train))
    processor = make_processor(tokenizer, "none")
    batch = DocumentCollator(processor)([make(np.random.default_rng(seed)) for seed in range(12)])
    ids, labels = batch["input_ids"], batch["labels"]
    is_image = ids == processor.image_token_id
    is_padding = batch["attention_mask"] == 0
    assert is_image.any() and is_padding.any()
    assert ((labels == -100) == (is_image | is_padding)).all()
    assert (labels[labels != -100] == ids[labels != -100]).all()


def test_conversations_label_what_the_assistant_says_and_nothing_else(tokenizer):
    make = Conversations(Painter(load_split().train, cell=LARGE_CELL))
    processor = make_processor(tokenizer, "static")
    conversations = [make(np.random.default_rng(seed)) for seed in range(4)]
    batch = ConversationCollator(processor)(conversations)
    assert batch["pixel_values"].shape == (4 * 5, 3, 32, 32)
    for labels, messages in zip(batch["labels"], conversations, strict=True):
        said = [m["content"][0]["text"] for m in messages if m["role"] == "assistant"]
        expected = "".join(f" {text}{tokenizer.eos_token}" for text in said)
        assert tokenizer.decode(labels[labels != -100]) == expected
