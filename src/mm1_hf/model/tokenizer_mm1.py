"""What a tokenizer must be given to serve MM1, and which of its tokens text must not write."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, models, normalizers, pre_tokenizers

from .interleaving_mm1 import ESCAPE_MARKS_TO_REMOVE, ControlTokens

_REMOVE_MARKS = normalizers.Replace(Regex(ESCAPE_MARKS_TO_REMOVE), "")
_CUT_AT_MARKS = pre_tokenizers.Split(Regex(ESCAPE_MARKS_TO_REMOVE), "removed")


def require_fast(tokenizer: Any) -> None:
    """Raise `ValueError` unless the tokenizer is one of the tokenizers library."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"A fast tokenizer is needed, but {type(tokenizer).__name__} was given. Load it with "
            "AutoTokenizer, or convert it to a tokenizer.json with the tokenizers library."
        )


def add_special_tokens(tokenizer: Any, tokens: Iterable[str]) -> None:
    """Add special tokens where they are missing; the vocabulary grows by that many."""
    known = tokenizer.added_tokens_encoder
    missing = [token for token in tokens if token not in known]
    if missing:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": missing}, replace_extra_special_tokens=False
        )


def add_padding(tokenizer: Any) -> None:
    """Give a tokenizer left padding, and its end of sequence as pad token if it has none.

    Raises:
        ValueError: If it has neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "The tokenizer has neither a pad token nor an end of sequence. Set "
                "tokenizer.pad_token to one of its tokens."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # only what stands here is saved


def install_mark_removal(tokenizer: Any) -> None:
    """Make a tokenizer remove escape marks, once: in front of its normalizer.

    A Unigram model is different: its pieces include the control tokens themselves, and it would put
    one together from the characters left. There the marks stay until the text is cut into words and
    part the characters for good.

    Some tokenizer classes rebuild these steps when they are loaded, so this cannot be left to the
    saved file.
    """
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.Unigram):
        before = _steps(backend.pre_tokenizer, "pretokenizers")
        if json.loads(_CUT_AT_MARKS.__getstate__()) not in before:
            steps = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
            backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, _CUT_AT_MARKS])
        return
    if json.loads(_REMOVE_MARKS.__getstate__()) not in _steps(backend.normalizer, "normalizers"):
        steps = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([_REMOVE_MARKS, *steps])


def _steps(step: Any, name: str) -> list[dict]:
    if step is None:
        return []
    state = json.loads(step.__getstate__())
    return state[name] if state["type"] == "Sequence" else [state]


def control_tokens(tokenizer: Any, chat_template: str) -> ControlTokens:
    """Special tokens, and added tokens that the chat template writes as control tokens.

    Every token is tried: what comes out as itself although it is escaped counts as unescapable.
    """
    written = [
        token
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in chat_template and not token.content.isspace())
    ]
    names = {token.content for token in written}.union(tokenizer.all_special_tokens)
    unescapable = {token.content for token in written if token.normalized}
    escape = ControlTokens(names - unescapable).escape
    for name in names - unescapable:
        token_id = tokenizer.convert_tokens_to_ids(name)
        can_be_tried = len(name) > 1 and token_id != tokenizer.unk_token_id
        if can_be_tried and token_id in tokenizer.encode(escape(name), add_special_tokens=False):
            unescapable.add(name)
    return ControlTokens(names, unescapable=unescapable)
