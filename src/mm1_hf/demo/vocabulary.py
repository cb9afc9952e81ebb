"""A small byte-level BPE tokenizer, trained on the spot."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mm1_hf.demo.canvases import Painter
from mm1_hf.demo.documents import CAPTIONS, THEMES, interleaved_document, load_prose
from mm1_hf.demo.questions import ask

VOCABULARY_SIZE = 1024
# <eos> must not have id 2: for that id transformers' CLIP reads a caption at its largest token id
# instead of its end, as OpenAI's checkpoints need it, and the encoder learns little or nothing.
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<image>")
_NUM_EXAMPLES = 2000


def build_tokenizer(painter: Painter, *, seed: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on English prose and on the texts of the demonstration.

    Byte-level, so that any text survives a round trip. Every sequence begins with `<bos>`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(painter, seed=seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


def _corpus(painter: Painter, *, seed: int):
    rng = np.random.default_rng(seed)
    yield load_prose()
    for _ in range(_NUM_EXAMPLES):
        canvas = painter.paint(rng)
        question = ask(canvas, rng)
        for make_caption in CAPTIONS:
            yield make_caption(painter, rng)[1]
        yield f"User: {question.text}\nAssistant: {question.answer}\n"
        for theme in THEMES:
            yield interleaved_document([canvas], theme=theme)[1]
