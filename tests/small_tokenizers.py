"""Small tokenizers of the five common kinds, made on the spot: no network, no files."""

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


def _unigram() -> Tokenizer:
    """SentencePiece's other kind, T5's: pieces with probabilities, spaces as a character."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _word_piece() -> Tokenizer:
    """BERT's kind: lower case, words cut into pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


_BUILDERS = {
    "byte_level": _byte_level,
    "metaspace": _metaspace,
    "word_level": _word_level,
    "unigram": _unigram,
    "word_piece": _word_piece,
}
KINDS = tuple(_BUILDERS)


class SmallTokenizers:
    """Makes new tokenizers: `make_tokenizer(kind)`, one of `KINDS`; each kind is trained once."""

    def __init__(self) -> None:
        self._saved: dict[str, str] = {}

    def __call__(self, kind: str = "byte_level", **kwargs) -> PreTrainedTokenizerFast:
        if kind not in self._saved:
            self._saved[kind] = _BUILDERS[kind]().to_str()
        named = {
            "pad_token": "<pad>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        } | kwargs
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(self._saved[kind]), **named
        )
