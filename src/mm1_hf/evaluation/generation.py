"""Greedy answers to a batch of prompts, ended by the rules of a task."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

Ending = Literal["stop", "end", "length"]


class Generated(NamedTuple):
    """One answer.

    Attributes:
        text: Without what follows a stop, and without spaces around it.
        ending: `"stop"`: at a text that ends answers of the task. `"end"`: at the model's own end
            of sequence. `"length"`: at the limit of tokens, so perhaps in the midst of a word.
        tokens: Tokens up to the ending.
    """

    text: str
    ending: Ending
    tokens: int


def generate_answers(
    model: Any,
    processor: Any,
    inputs: Any,
    *,
    max_new_tokens: int,
    stops: Sequence[str] = (),
) -> list[Generated]:
    """Continue left-padded prompts greedily.

    A row ends at its first stop, and the batch with its last row. A stop is looked for in the
    decoded text, as tokens do not respect it; the first text that contains one ends the answer, so
    the answer does not depend on the other rows.

    Args:
        model: An MM1, or anything with its `generate`.
        processor: Its processor.
        inputs: From `prompts.encode`.
        max_new_tokens: Tokens to generate at most.
        stops: The answer is cut before the first of these texts.
    """
    tokenizer = processor.tokenizer
    ends = end_tokens(model, tokenizer)
    length = inputs["input_ids"].shape[1]
    inputs = inputs.to(getattr(model, "device", "cpu"), dtype=getattr(model, "dtype", None))
    read = _reader(tokenizer, ends)
    criteria = [_StopTexts(length, stops, read)] if stops else []
    settings: Any = {
        "max_new_tokens": max_new_tokens,
        # Greedy, whatever the checkpoint recommends for talking to people.
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "use_cache": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends or None,
        # Never a label in training, so no trained model writes them; an untrained one may, and a
        # placeholder without a tile is an error.
        "suppress_tokens": list(processor.image_token_ids),
        "stopping_criteria": StoppingCriteriaList(criteria),
    }
    with torch.no_grad(), evaluation_mode(model):
        tokens = model.generate(**inputs, **settings)
    return [
        _finish(row, stops=stops, ends=ends, read=read, limit=max_new_tokens)
        for row in tokens[:, length:].tolist()
    ]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the model, and the tokenizer's end of sequence."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends: list[int] = [own] if isinstance(own, int) else list(own or ())
    known = tokenizer.eos_token_id
    if known is not None and known not in ends:
        ends.append(known)
    return ends


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Every part of a model in evaluation mode, and afterwards in the mode that it had.

    Parts may differ: a frozen tower can be in evaluation mode while the rest is trained.
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    if modules:
        model.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of the stops.

    >>> cut_at_stop("a cat. Question: what", (".", "Question"))
    'a cat'
    """
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


class _StopTexts(StoppingCriteria):
    """Marks the rows whose new text contains a stop."""

    def __init__(self, length: int, stops: Sequence[str], read: Callable[[list[int]], str]):
        self._length = length
        self._stops = tuple(stops)
        self._read = read

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        rows = input_ids[:, self._length :].tolist()
        done = [any(stop in self._read(row) for stop in self._stops) for row in rows]
        return torch.tensor(done, device=input_ids.device)


def _reader(tokenizer: Any, ends: Sequence[int]) -> Callable[[list[int]], str]:
    def read(tokens: list[int]) -> str:
        kept = _before_end(tokens, ends)
        return tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return read


def _before_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((n for n, token in enumerate(tokens) if token in ends), len(tokens))]


def _finish(
    row: list[int],
    *,
    stops: Sequence[str],
    ends: Sequence[int],
    read: Callable[[list[int]], str],
    limit: int,
) -> Generated:
    """Read one row; the same whatever other rows made of the batch's length."""
    kept = _before_end(row, ends)
    ending: Ending = "end" if len(kept) < limit else "length"
    if stops and any(stop in read(kept) for stop in stops):
        # The shortest beginning that holds a stop is where this row ended; padding follows.
        size = next(n for n in range(1, len(kept) + 1) if any(s in read(kept[:n]) for s in stops))
        text = cut_at_stop(read(kept[:size]), stops)
        return Generated(text.strip(), "stop", size)
    return Generated(read(kept).strip(), ending, len(kept))
