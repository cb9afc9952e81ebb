"""`evaluate`: a task asked of a model, from examples to figures, in a run that may be killed."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from mm1_hf.evaluation.answers import Answer, AnswerFile, only_writer, write_json, write_text
from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.fingerprint import (
    model_fingerprint,
    processor_fingerprint,
    split_fingerprint,
)
from mm1_hf.evaluation.page import render_page
from mm1_hf.evaluation.prompts import Style
from mm1_hf.evaluation.questions import Questioner, labelled_examples
from mm1_hf.evaluation.report import EvaluationResult, score_answers, versions
from mm1_hf.evaluation.settings import EvaluationSettings, OnTrouble


class _Asked(NamedTuple):
    """Who is asked what, as `evaluate` is given it."""

    model: Any
    processor: Any
    task: Task
    examples: Sequence[Example]
    demonstrations: Sequence[Example] | None


def evaluate(
    model: Any,
    processor: Any,
    task: Task,
    examples: Sequence[Example],
    *,
    demonstrations: Sequence[Example] | None = None,
    num_shots: int = 0,
    seeds: Sequence[int] = (0,),
    batch_size: int = 8,
    style: Style = "chat",
    high_resolution_last: int = 3,
    max_new_tokens: int | None = None,
    on_bad_image: OnTrouble = "error",
    on_long_prompt: OnTrouble = "error",
    on_unlabelled: OnTrouble = "error",
    output: str | os.PathLike | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Ask a task of a model and score its answers.

    Answers are greedy. Every answer is kept under `output` as soon as its batch is done; the same
    call again asks only what is missing, so a killed run goes on, and more examples or seeds may be
    added. Nothing is left out silently: what cannot be asked stops the run, or counts as wrong and
    is reported.

    Args:
        model: An MM1, on its device and in its dtype.
        processor: Its `MM1Processor`.
        task: The task; see `contract.Task`.
        examples: What is asked. Their keys must differ.
        demonstrations: The split that demonstrations are drawn from, by seed and question. It may
            contain the examples: a demonstration is never the question; see `few_shot`.
        num_shots: See `EvaluationSettings`, also for what follows.
        seeds: Seeds of the demonstrations.
        batch_size: Questions per batch.
        style: `"chat"` or `"continuation"`.
        high_resolution_last: Demonstrations that are tiled as the question is.
        max_new_tokens: Tokens of an answer at most.
        on_bad_image: `"error"` or `"count"`.
        on_long_prompt: `"error"` or `"count"`.
        on_unlabelled: `"error"` or `"count"`.
        output: A folder for the answers, `results.json`, `results.txt` and `answers.html`, a page
            of right and wrong answers with their pictures. Without it nothing is written.
        progress: Whether to show a bar.

    Raises:
        ValueError: If a setting is unknown, examples share a key or have no answers, a question
            cannot be asked, or `output` holds answers of another run; says what to do.
    """
    settings = EvaluationSettings(
        num_shots=num_shots,
        seeds=tuple(seeds),
        batch_size=batch_size,
        style=style,
        high_resolution_last=high_resolution_last,
        max_new_tokens=max_new_tokens,
        on_bad_image=on_bad_image,
        on_long_prompt=on_long_prompt,
        on_unlabelled=on_unlabelled,
    )
    return _evaluate(
        _Asked(model, processor, task, examples, demonstrations),
        settings,
        output=output,
        progress=progress,
    )


def _evaluate(
    asked: _Asked,
    settings: EvaluationSettings,
    *,
    output: str | os.PathLike | None,
    progress: bool,
) -> EvaluationResult:
    task, demonstrations = asked.task, asked.demonstrations
    examples = labelled_examples(task, asked.examples, on_unlabelled=settings.on_unlabelled)
    if demonstrations and settings.num_shots:
        demonstrations = labelled_examples(
            task, demonstrations, on_unlabelled=settings.on_unlabelled
        )
    questioner = Questioner(
        model=asked.model,
        processor=asked.processor,
        task=task,
        settings=settings,
        demonstrations=demonstrations,
    )
    contents = _fingerprints(examples, questioner)
    unlabelled = len(asked.examples) - len(examples)
    with only_writer(output):
        identity = run_identity(questioner, demonstrations)
        answers = AnswerFile(output, settings=identity)
        _ask_missing(questioner, examples, contents, answers, progress=progress)
        result = EvaluationResult(
            task=task.name,
            source=task.source,
            settings=identity,
            per_seed={
                seed: score_answers(
                    task, examples, _collect(answers, examples, seed), unlabelled=unlabelled
                )
                for seed in settings.asked_seeds
            },
            versions=versions(),
        )
        if output is not None:
            _write_report(Path(output), result, questioner, examples, demonstrations)
    return result


def run_identity(
    questioner: Questioner, demonstrations: Sequence[Example] | None
) -> dict[str, Any]:
    """Everything that the answer to an example depends on, besides the example and the seed."""
    task, settings, model = questioner.task, questioner.settings, questioner.model
    shots = settings.num_shots
    return {
        "task": task.name,
        "style": settings.style,
        "num_shots": shots,
        "demonstrations": split_fingerprint(demonstrations or ()) if shots else None,
        "high_resolution_last": settings.high_resolution_last if shots else None,
        "max_new_tokens": questioner.max_new_tokens,
        "stops": list(questioner.stops),
        "model": model_fingerprint(model),
        "dtype": str(getattr(model, "dtype", None)),
        "processor": processor_fingerprint(questioner.processor),
    }


def _fingerprints(examples: Sequence[Example], questioner: Questioner) -> list[str]:
    contents, places = [], {}
    for place, example in enumerate(examples):
        if example.key in places:
            raise ValueError(
                f"Examples {places[example.key]} and {place} share the key {example.key!r}, but "
                "answers are kept by key. Give every example its own."
            )
        places[example.key] = place
        contents.append(questioner.content(example))
    return contents


def _ask_missing(
    questioner: Questioner,
    examples: Sequence[Example],
    contents: Sequence[str],
    answers: AnswerFile,
    *,
    progress: bool,
) -> None:
    seeds = questioner.settings.asked_seeds
    missing = {
        seed: [
            place
            for place, content in enumerate(contents)
            if not _is_settled(answers.get(seed, examples[place].key), content, questioner)
        ]
        for seed in seeds
    }
    total = len(examples) * len(seeds)
    done = total - sum(map(len, missing.values()))
    with tqdm(
        total=total, initial=done, desc=questioner.task.name, unit="q", disable=not progress
    ) as bar:
        for seed, places in missing.items():
            for batch in _batches(places, questioner.settings.batch_size):
                answers.add(questioner.ask([examples[place] for place in batch], seed=seed))
                bar.update(len(batch))


def _is_settled(answer: Answer | None, content: str, questioner: Questioner) -> bool:
    """Whether an example need not be asked (again) under the present settings."""
    if answer is None:
        return False
    if answer.content != content:
        raise ValueError(
            f"The example {answer.key!r} is not the one that was answered: its prompt, "
            "answers or pictures have changed since. Choose another output folder."
        )
    # Counted then, but an error now: asked again, which says so.
    settings = questioner.settings
    is_bad = answer.status == "unreadable" or answer.unreadable > 0
    is_long = answer.status == "too_long"
    return not (
        (is_bad and settings.on_bad_image == "error")
        or (is_long and settings.on_long_prompt == "error")
    )


def _batches(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _collect(answers: AnswerFile, examples: Sequence[Example], seed: int) -> list[Answer]:
    found = [answers.get(seed, example.key) for example in examples]
    assert None not in found
    return [answer for answer in found if answer is not None]


def _write_report(
    folder: Path,
    result: EvaluationResult,
    questioner: Questioner,
    examples: Sequence[Example],
    demonstrations: Sequence[Example] | None,
) -> None:
    write_json(folder / "results.json", result.as_dict())
    write_text(folder / "results.txt", result.table() + "\n")
    page = render_page(result, questioner, examples, demonstrations=demonstrations or ())
    write_text(folder / "answers.html", page)
