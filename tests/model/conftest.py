"""Small tokenizers of the three common kinds, made on the spot: no network, no files."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_CORPUS = [
    "What is in the picture? User: Assistant: System: a red cat on the left, a dog on the right.",
    "Question: how many digits? Short answer: three < image > </s> and seven.",
] * 4
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def _byte_level() -> Tokenizer:
    """GPT-2's kind: bytes, so that any text is represented and decodes exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _metaspace() -> Tokenizer:
    """Llama 2's kind: a normalizer that writes spaces as a visible character, and byte fallback."""
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    letters = sorted(set("".join(_CORPUS).replace(" ", space)))
    tokens = _SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + letters
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(space, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _word_level() -> Tokenizer:
    """Whole words, the kind small experiments use; unknown words are lost."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


_KINDS = {"byte_level": _byte_level, "metaspace": _metaspace, "word_level": _word_level}


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes new tokenizers: `make_tokenizer(kind)`, kind a key of `_KINDS`."""
    saved = {kind: build().to_str() for kind, build in _KINDS.items()}

    def make(kind: str = "byte_level", **kwargs) -> PreTrainedTokenizerFast:
        named = {
            "pad_token": "<pad>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        } | kwargs
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(saved[kind]), **named)

    return make
