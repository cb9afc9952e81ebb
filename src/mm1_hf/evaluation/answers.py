"""Answers on disk: a line each, kept as soon as they are given, so that a killed run goes on.

A folder holds the answers of one run: `run.json` says of which model and task, `answers.jsonl` has
a line for every answer.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from mm1_hf.evaluation.generation import Ending

# "unreadable": a picture of the example cannot be decoded. "too_long": prompt and answer exceed the
# model's context. Neither was asked, and both count as wrong.
Status = Literal["answered", "unreadable", "too_long"]

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one question under one seed.

    Attributes:
        seed: Seed of the demonstrations.
        key: The example's.
        content: Fingerprint of the example; see `fingerprint.question_fingerprint`.
        text: The answer, without what follows a stop; empty where nothing was asked.
        status: Whether it was asked.
        ending: What ended the answer; None where nothing was asked.
        prompt_tokens: Tokens of the prompt, if it was asked or is too long.
        new_tokens: Tokens of the answer.
        demonstrations: Places of the demonstrations in their split.
        equal: Demonstrations put back because they are the question.
        unreadable: Demonstrations put back because a picture of theirs cannot be read.
        reason: Why it was not asked.
    """

    seed: int
    key: str
    content: str
    text: str = ""
    status: Status = "answered"
    ending: Ending | None = None
    prompt_tokens: int | None = None
    new_tokens: int = 0
    demonstrations: tuple[int, ...] = ()
    equal: int = 0
    unreadable: int = 0
    reason: str | None = None


class AnswerFile:
    """The answers of one run, in memory and, where a folder is given, on disk.

    Args:
        folder: Where `run.json` and `answers.jsonl` are; None keeps nothing.
        settings: Everything that answers depend on, as JSON. A folder with answers under others is
            refused.

    Raises:
        ValueError: If the folder belongs to another run, or its answers are damaged elsewhere than
            at the end, where a process died.
    """

    def __init__(self, folder: str | os.PathLike | None, *, settings: Mapping[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self._answers: dict[tuple[int, str], Answer] = {}
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "answers.jsonl"
        _require_same_run(self.folder / "run.json", settings, has_answers=self._path.exists())
        for answer in _read_whole_lines(self._path):
            self._answers[answer.seed, answer.key] = answer

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, seed: int, key: str) -> Answer | None:
        """The answer to an example, if it was given."""
        return self._answers.get((seed, key))

    def add(self, answers: Iterable[Answer]) -> None:
        """Keep answers; when this returns, they survive a power cut."""
        added = list(answers)
        if self.folder is not None:
            lines = "".join(json.dumps(asdict(answer)) + "\n" for answer in added)
            with self._path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        for answer in added:
            self._answers[answer.seed, answer.key] = answer


@contextmanager
def only_writer(folder: str | os.PathLike | None) -> Iterator[None]:
    """While this lasts, no other process evaluates into the folder.

    Raises:
        ValueError: If one does.
    """
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        # The system releases it with the process, however that ends.
        with FileLock(Path(folder) / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"Another process evaluates into {str(folder)!r}. Wait for it, or choose another "
            "output folder."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _require_same_run(path: Path, settings: Mapping[str, Any], *, has_answers: bool) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        if has_answers:
            raise ValueError(
                f"{str(path.parent)!r} has answers but no run.json that says whose they are. "
                "Choose another output folder, or remove it."
            )
        write_json(path, settings)
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    names = sorted({*known, *settings})
    other = [name for name in names if known.get(name) != settings.get(name)]
    if other:
        found = ", ".join(
            f"{name} {_short(known.get(name))} instead of {_short(settings.get(name))}"
            for name in other
        )
        raise ValueError(
            f"{str(path.parent)!r} holds answers of another run: {found}. Answers of two runs are "
            "never mixed: choose another output folder, or remove this one."
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_whole_lines(path: Path) -> Iterator[Answer]:
    """The answers of a file; what a dying process left of a last line is removed from it."""
    if not path.exists():
        return
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)
    for number, line in enumerate(text[:whole].splitlines(), start=1):
        try:
            fields = json.loads(line)
            fields["demonstrations"] = tuple(fields["demonstrations"])
            yield Answer(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"Line {number} of {str(path)!r} is no answer ({error}). Remove the line, and its "
                "example is asked again."
            ) from None
