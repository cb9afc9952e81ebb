"""A checkpoint that answers: what a prompt costs before it is asked, and the answer as it comes."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from mm1_hf.model.decoding_mm1 import read_image_size
from mm1_hf.model.sample_plan_mm1 import SamplePlan
from mm1_hf.serving.prompts import Picture, Piece, as_messages


class PromptCount(NamedTuple):
    """What a prompt becomes.

    Attributes:
        plan: Tiles and tokens of its pictures.
        text_tokens: Tokens of everything else: text, and what the chat template puts around it.
        room: Tokens that the decoder's positions leave for an answer; None where it names no limit.
    """

    plan: SamplePlan
    text_tokens: int
    room: int | None

    @property
    def total(self) -> int:
        """All tokens of the prompt."""
        return sum(self.plan.num_tokens) + self.text_tokens


class Answerer:
    """A model and its processor, ready to answer prompts of text and pictures.

    One answer is made at a time; others wait.

    Args:
        model: An `MM1ForConditionalGeneration`.
        processor: Its `MM1Processor`, with a chat template.
    """

    def __init__(self, model: Any, processor: Any):
        self.model = model.eval()
        self.processor = processor
        self._turn = threading.Lock()

    @classmethod
    def from_pretrained(cls, checkpoint: str, *, device: str = "cpu") -> "Answerer":
        """Load a model and its processor from a folder or the Hub."""
        model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint)
        return cls(model.to(device), AutoProcessor.from_pretrained(checkpoint))

    def count(self, pieces: Sequence[Piece]) -> PromptCount:
        """Tiles and tokens of a prompt, without touching its pixels.

        Raises:
            ValueError: If the pictures cannot be planned; names the picture.
        """
        images = [piece.image for piece in pieces if isinstance(piece, Picture)]
        plan = self.processor.plan([read_image_size(image) for image in images], name="the prompt")
        rendered = self.processor.apply_chat_template(
            as_messages(pieces), tokenize=False, add_generation_prompt=True
        )
        tokenizer = self.processor.tokenizer
        bos = tokenizer.bos_token
        begins = bos is not None and rendered.startswith(bos)
        ids = tokenizer.encode(rendered, add_special_tokens=not begins)
        text_tokens = len(ids) - len(images)
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = None if limit is None else limit - sum(plan.num_tokens) - text_tokens
        return PromptCount(plan, text_tokens, room)

    def stream(self, pieces: Sequence[Piece], *, max_new_tokens: int = 256) -> Iterator[str]:
        """The answer, chosen greedily, longer with every step. Closing the iterator stops it.

        Args:
            pieces: The prompt.
            max_new_tokens: Most tokens of the answer; less where the decoder's positions end.

        Raises:
            ValueError: If the prompt is too long or its pictures cannot be read.
        """
        count = self.count(pieces)
        if count.room is not None and count.room < 1:
            raise ValueError(
                f"The prompt has {count.total} tokens, {sum(count.plan.num_tokens)} of them of "
                "pictures, and leaves the model no room for an answer. Use fewer or smaller "
                "pictures, or less text."
            )
        if count.room is not None:
            max_new_tokens = min(max_new_tokens, count.room)
        inputs = self.processor.apply_chat_template(
            as_messages(pieces),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        with self._turn:
            yield from _generate(self.model, self.processor, inputs, max_new_tokens)


class _Closed(StoppingCriteria):
    """Stops an answer that nobody reads any more."""

    def __init__(self, closed: threading.Event):
        self.closed = closed

    def __call__(self, input_ids: Any, scores: Any, **kwargs) -> Any:
        stop = self.closed.is_set()
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


def _generate(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> Iterator[str]:
    closed = threading.Event()
    failures: list[Exception] = []
    streamer: Any = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True
    )

    def generate() -> None:
        try:
            model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Closed(closed)]),
            )
        except Exception as error:  # raised again where the answer is read
            failures.append(error)
            streamer.end()

    thread = threading.Thread(target=generate, name="mm1-answer", daemon=True)
    thread.start()
    answer = ""
    try:
        for text in streamer:
            answer += text
            yield answer
    finally:
        closed.set()
        thread.join()
    if failures:
        raise failures[0]


__all__ = ["Answerer", "PromptCount"]
