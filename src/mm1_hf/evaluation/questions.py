"""A batch of examples put to a model: pictures, demonstrations, prompt, answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mm1_hf.evaluation.answers import Answer
from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.few_shot import Demonstrations, show_example
from mm1_hf.evaluation.fingerprint import question_fingerprint
from mm1_hf.evaluation.generation import generate_answers
from mm1_hf.evaluation.images import Pictures
from mm1_hf.evaluation.prompts import Question, encode
from mm1_hf.evaluation.settings import EvaluationSettings, OnTrouble
from mm1_hf.model.decoding_mm1 import ImageError


class Questioner:
    """Puts examples of a task to a model.

    Args:
        model: An MM1, or anything with its `generate`.
        processor: Its `MM1Processor`.
        task: The task.
        settings: How it is put.
        demonstrations: The split to draw demonstrations from.

    Raises:
        ValueError: If there are to be demonstrations and no split, or the tokenizer cannot pad.
    """

    def __init__(
        self,
        *,
        model: Any,
        processor: Any,
        task: Task,
        settings: EvaluationSettings,
        demonstrations: Sequence[Example] | None,
    ):
        if settings.num_shots and not demonstrations:
            raise ValueError(
                f"num_shots is {settings.num_shots}, but there are no demonstrations. Pass the "
                "train split of the task as demonstrations=."
            )
        if processor.tokenizer.pad_token_id is None:
            raise ValueError(
                "The tokenizer has no pad token, which batches need. Set tokenizer.pad_token, for "
                "example to its eos_token."
            )
        self.model = model
        self.processor = processor
        self.task = task
        self.settings = settings
        self.pictures = Pictures()
        self.max_new_tokens = settings.max_new_tokens or task.max_new_tokens
        self.stops = task.stops if settings.style == "continuation" else ()
        self._demonstrations = Demonstrations(
            demonstrations or (),
            task=task,
            pictures=self.pictures,
            skip_unreadable=settings.on_bad_image == "count",
        )
        self._context = _context_length(model)

    def ask(self, examples: Sequence[Example], *, seed: int) -> list[Answer]:
        """Answers to a batch of examples, in their order.

        Raises:
            ValueError: If a picture cannot be decoded or a prompt is too long, and that is not
                counted, or too few demonstrations are left; names the example.
        """
        answers: dict[int, Answer] = {}
        questions: dict[int, Question] = {}
        for place, example in enumerate(examples):
            answer = Answer(seed=seed, key=example.key, content=self.content(example))
            try:
                shown = show_example(example, self.pictures)
            except ImageError as error:
                if self.settings.on_bad_image == "error":
                    raise ValueError(
                        f'{error} Or count such examples as wrong, with on_bad_image="count".'
                    ) from None
                answers[place] = replace(answer, status="unreadable", reason=str(error))
                continue
            drawn = self._demonstrations.draw(shown, number=self.settings.num_shots, seed=seed)
            questions[place] = Question(shown.example, drawn.examples)
            answers[place] = replace(
                answer,
                demonstrations=drawn.indices,
                equal=drawn.equal,
                unreadable=drawn.unreadable,
            )
        inputs, lengths = self._encode(questions)
        if too_long := [place for place in questions if self._is_too_long(lengths[place])]:
            for place in too_long:
                answers[place] = self._too_long(answers[place], lengths[place])
                del questions[place]
            inputs, _ = self._encode(questions)
        if questions:
            generated = generate_answers(
                self.model,
                self.processor,
                inputs,
                max_new_tokens=self.max_new_tokens,
                stops=self.stops,
            )
            for place, one in zip(questions, generated, strict=True):
                answers[place] = replace(
                    answers[place],
                    text=one.text,
                    ending=one.ending,
                    prompt_tokens=lengths[place],
                    new_tokens=one.tokens,
                )
        return [answers[place] for place in range(len(examples))]

    def segments(self, example: Example) -> list[Any]:
        """Texts and pictures of an example's prompt, as it is asked."""
        prompt = self.task.prompt if self.settings.style == "chat" else self.task.continuation
        return prompt(example)

    def content(self, example: Example) -> str:
        """Fingerprint of an example as it is asked."""
        return question_fingerprint(example, self.segments)

    def _encode(self, questions: dict[int, Question]) -> tuple[Any, dict[int, int]]:
        """Inputs of the questions, and the prompt's number of tokens for each place."""
        if not questions:
            return None, {}
        inputs = encode(
            list(questions.values()),
            self.processor,
            self.task,
            style=self.settings.style,
            high_resolution_last=self.settings.high_resolution_last,
        )
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return inputs, dict(zip(questions, lengths, strict=True))

    def _is_too_long(self, length: int) -> bool:
        return self._context is not None and length + self.max_new_tokens > self._context

    def _too_long(self, answer: Answer, length: int) -> Answer:
        reason = (
            f"The prompt of example {answer.key!r} has {length} tokens and its answer up to "
            f"{self.max_new_tokens}, but the model's context has {self._context}."
        )
        if self.settings.on_long_prompt == "error":
            raise ValueError(
                f"{reason} Use fewer shots or tiles, a smaller high_resolution_last, or count such "
                'examples as wrong, with on_long_prompt="count".'
            )
        return replace(answer, status="too_long", prompt_tokens=length, reason=reason)


def labelled_examples(
    task: Task, examples: Sequence[Example], *, on_unlabelled: OnTrouble
) -> Sequence[Example]:
    """The examples that have answers to compare with.

    Raises:
        ValueError: If there is none, or one has no answers and that is not counted.
    """
    labelled = [example for example in examples if example.answers]
    remedy = "Choose a split that is published with its answers, such as 'validation'"
    if not labelled:
        found = f"None of the {len(examples)} examples" if len(examples) else "No example"
        raise ValueError(f"{found} of task {task.name!r} has answers to compare with. {remedy}.")
    if len(labelled) == len(examples):
        return examples
    if on_unlabelled == "error":
        first = next(example.key for example in examples if not example.answers)
        raise ValueError(
            f"{len(examples) - len(labelled)} of {len(examples)} examples of task {task.name!r} "
            f"have no answers to compare with, the first is {first!r}. {remedy}, or leave such "
            'examples out and count them, with on_unlabelled="count".'
        )
    return labelled


def _context_length(model: Any) -> int | None:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None)
