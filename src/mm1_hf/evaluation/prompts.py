"""From a question and its demonstrations to model inputs, as a chat or as running text."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from mm1_hf.evaluation.contract import Example, Task

Style = Literal["chat", "continuation"]

STYLES: tuple[str, ...] = get_args(Style)


class Question(NamedTuple):
    """What is put before the model; pictures are decoded.

    Attributes:
        example: The example that is asked.
        demonstrations: Worked examples in front of it.
    """

    example: Example
    demonstrations: tuple[Example, ...] = ()


def encode(
    questions: Sequence[Question],
    processor: Any,
    task: Task,
    *,
    style: Style,
    high_resolution_last: int,
) -> Any:
    """Model inputs of a batch of questions, padded on the left.

    Args:
        questions: With any numbers of pictures; of demonstrations all have the same number.
        processor: An `MM1Processor`.
        task: Gives the prompts and the answers of demonstrations.
        style: `"chat"`: turns of the chat template. `"continuation"`: one text, in which an answer
            stands behind its prompt and a space, and a line break behind the answer.
        high_resolution_last: Behind demonstrations, so many of them and the question are tiled, and
            earlier ones are one tile per picture. Without demonstrations the processor's own
            settings hold.
    """
    padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    is_mixed = any(question.demonstrations for question in questions)
    if style == "chat":
        conversations = [_conversation(question, task) for question in questions]
        has_pictures = any(
            part["type"] == "image"
            for messages in conversations
            for message in messages
            for part in message["content"]
        )
        return processor.apply_chat_template(
            conversations,
            high_resolution_last=high_resolution_last if is_mixed and has_pictures else None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=padding,
        )
    prompts = [
        processor.few_shot_prompt(
            [
                _encodable([*task.continuation(shown), f" {task.answer(shown)}"])
                for shown in question.demonstrations
            ],
            _encodable(task.continuation(question.example)),
            high_resolution_last=high_resolution_last,
        )
        for question in questions
    ]
    images = [prompt.images for prompt in prompts]
    has_pictures = any(images)
    caps = {"max_tiles": [p.max_tiles for p in prompts]} if is_mixed and has_pictures else {}
    return processor(
        text=[prompt.text for prompt in prompts],
        images=images if has_pictures else None,
        **caps,
        **padding,
    )


def _conversation(question: Question, task: Task) -> list[dict]:
    messages = []
    for example in question.demonstrations:
        messages.append(_user_message(task.prompt(example)))
        messages.append({"role": "assistant", "content": _parts([task.answer(example)])})
    return [*messages, _user_message(task.prompt(question.example))]


def _user_message(segments: Sequence[Any]) -> dict:
    return {"role": "user", "content": _parts(segments)}


def _parts(segments: Sequence[Any]) -> list[dict]:
    return [
        {"type": "text", "text": segment}
        if isinstance(segment, str)
        else {"type": "image", "image": segment}
        for segment in _encodable(segments)
    ]


def _encodable(segments: Sequence[Any]) -> list[Any]:
    """Segments without halves of characters, which JSON files may hold and tokenizers refuse."""
    return [
        segment.encode("utf-8", "replace").decode() if isinstance(segment, str) else segment
        for segment in segments
    ]
