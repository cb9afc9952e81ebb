"""What the model can do on digits of writers it has never seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mm1_hf.demo.canvases import CAPTION_PROMPT, Canvas, Painter
from mm1_hf.demo.documents import interleaved_document, theme_label, user_message
from mm1_hf.demo.questions import Kind, Question, ask
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.processing_mm1 import MM1Processor

KINDS: tuple[Kind, ...] = ("read", "empty", "count", "exists")
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Answered:
    """A question about a canvas, and what the model said."""

    canvas: Canvas
    question: Question
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the answer is the truth, word for word."""
        return self.answer == self.question.answer


def share(right: Iterable[bool]) -> float:
    """Share of right answers, from 0 to 1."""
    return float(np.mean(list(right)))


def complete(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    prompts: Sequence[list],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Continue raw prompts (texts and pictures in reading order) greedily up to the line's end."""
    outputs: list[str] = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = [processor.interleave(prompt) for prompt in prompts[start : start + _BATCH_SIZE]]
        inputs = processor(
            text=[one.text for one in batch],
            images=[image for one in batch for image in one.images] or None,
            padding=True,
            return_tensors="pt",
        )
        outputs += _generate(model, processor, inputs, max_new_tokens=max_new_tokens)
    return [output.split("\n")[0].strip() for output in outputs]


def chat(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    conversations: Sequence[list[dict]],
    *,
    max_new_tokens: int = 8,
) -> list[str]:
    """Answer the last turn of each conversation greedily."""
    outputs: list[str] = []
    for start in range(0, len(conversations), _BATCH_SIZE):
        inputs = processor.apply_chat_template(
            list(conversations[start : start + _BATCH_SIZE]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )
        outputs += _generate(model, processor, inputs, max_new_tokens=max_new_tokens)
    return [output.strip() for output in outputs]


@torch.inference_mode()
def _generate(model, processor, inputs, *, max_new_tokens: int) -> list[str]:
    model.eval()
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)


def caption_exactness(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    painter: Painter,
    *,
    num_pictures: int,
    seed: int,
) -> float:
    """Share of captions with every place and every digit right."""
    canvases = _canvases(painter, num_pictures, seed=seed)
    prompts = [[canvas.pixels, CAPTION_PROMPT] for canvas in canvases]
    captions = complete(model, processor, prompts, max_new_tokens=20)
    return share(said == canvas.caption for said, canvas in zip(captions, canvases, strict=True))


def few_shot_accuracy(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    *,
    shots: Painter,
    queries: Painter,
    num_shots: int,
    theme: str,
    num_questions: int,
    seed: int,
) -> float:
    """Share of pictures labelled right behind `num_shots` examples from the training writers."""
    prompts, truths = [], []
    for index in range(num_questions):
        rng = np.random.default_rng([seed, index])
        canvases = [shots.paint(rng, num_digits=1) for _ in range(num_shots)]
        canvases.append(queries.paint(rng, num_digits=1))
        prompts.append(interleaved_document(canvases, theme=theme, complete=False))
        truths.append(theme_label(canvases[-1], theme))
    said = complete(model, processor, prompts, max_new_tokens=3)
    return share(answer == truth for answer, truth in zip(said, truths, strict=True))


def answer_questions(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    painter: Painter,
    *,
    kind: Kind,
    num_questions: int,
    seed: int,
    wrong_pictures: bool = False,
) -> list[Answered]:
    """Ask questions of one kind, each about its own canvas.

    Args:
        model: The fine-tuned model.
        processor: Its processor.
        painter: Paints the canvases.
        kind: See `ask`.
        num_questions: How many.
        seed: Same seed, same questions.
        wrong_pictures: Show another random picture of the same painter with each question. The
            truth stays that of the right picture, so a model that looks must now be wrong.
    """
    asked = []
    for index in range(num_questions):
        rng = np.random.default_rng([seed, index])
        most = 3 if kind == "empty" else 4
        canvas = painter.paint(rng, num_digits=int(rng.integers(1, most + 1)))
        asked.append((canvas, ask(canvas, rng, kind=kind)))
    shown = [canvas for canvas, _ in asked]
    if wrong_pictures:
        shown = _canvases(painter, num_questions, seed=seed + 1)
    conversations = [
        [user_message(question.text, canvas.pixels)]
        for canvas, (_, question) in zip(shown, asked, strict=True)
    ]
    answers = chat(model, processor, conversations)
    return [
        Answered(canvas, question, answer)
        for canvas, (_, question), answer in zip(shown, asked, answers, strict=True)
    ]


def _canvases(painter: Painter, number: int, *, seed: int) -> list[Canvas]:
    return [painter.paint(np.random.default_rng([seed, index])) for index in range(number)]
