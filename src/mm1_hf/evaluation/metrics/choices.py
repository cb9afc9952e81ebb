"""Multiple choice: which option an answer names, and how often that is the right one."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mm1_hf.evaluation.contract import Example, Scores, mean_figure
from mm1_hf.evaluation.metrics.figures import group_figures, picture_clusters, require_pairs

ChoiceRule = Callable[[str, Sequence[str]], str | None]

LETTERS = string.ascii_uppercase
_STATED = re.compile(
    r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*[\"'*]*\(?([A-Z])\)?[\"'*]*(?=[\s.,;:!)]|$)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"\(([A-Za-z])\)|([A-Z])(?:[.):,;]|\s*$|\s*\n)")


def direct_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names, for prompts that ask for the letter; None if it names none.

    The first of these that gives a letter of an option: the whole answer is one letter, in either
    case; it begins with `(B)`, `B.`, `B)`, `B:` or `B,`, or its first line is `B`; it says "answer
    is B", "answer: B" or "option B"; it is the text of exactly one option, with or without the
    option's letter before it, without regard to case and punctuation. The article in "A cat" is no
    letter.

    Source: our choice. Answers as prompted for are read as by LLaVA's ScienceQA evaluation, by
    SEED-Bench's and by lmms-eval 0.7.3; those differ from one another where an answer is longer.

    Raises:
        ValueError: If there are no options.
    """
    letters = letters_of(choices)
    said = answer.strip()
    if len(said) == 1:
        return said.upper() if said.upper() in letters else None
    if (leading := _LEADING.match(said)) is not None:
        letter = (leading.group(1) or leading.group(2)).upper()
        if letter in letters:
            return letter
    for stated in _STATED.finditer(said):
        # "the answer is a dog" has an article where a letter could stand.
        letter = stated.group(1)
        if letter.upper() in letters and (letter.isupper() or stated.end() == len(said)):
            return letter.upper()
    plain = _plain(said)
    named = [
        letter
        for letter, choice in zip(letters, choices, strict=True)
        if plain and plain in (_plain(choice), _plain(f"{letter} {choice}"))
    ]
    return named[0] if len(named) == 1 else None


def mmmu_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names by MMMU's rules; None where MMMU would draw one by chance.

    Punctuation at both ends is taken off. Then the first of these that gives letters: `(B)`
    anywhere; `B ` anywhere; `B.` anywhere; in answers of more than five words, the text of an
    option. Of several, the one that stands last is taken.

    Source: MMMU's evaluation (github.com/MMMU-Benchmark/MMMU, eval/eval_utils.py, commit 51ce7f3).
    Its random choice for answers without a letter is left out: such answers are wrong here.

    Raises:
        ValueError: If there are no options.
    """
    letters = letters_of(choices)
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    text = f" {answer} "
    for before, after, place in (("(", ")", "({})"), ("", " ", " {} "), ("", ".", " {} ")):
        found = [letter for letter in letters if f"{before}{letter}{after}" in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > 5:
        small = text.lower()
        texts = dict(zip(letters, (choice.lower() for choice in choices), strict=True))
        found = [letter for letter, choice in texts.items() if choice in small]
        if found:
            return max(found, key=lambda letter: small.rfind(texts[letter]))
    return None


def letters_of(choices: Sequence[str]) -> str:
    """The letters of the options, `ABCD` for four.

    Raises:
        ValueError: If there are none, or more than the alphabet has.
    """
    if not 0 < len(choices) <= len(LETTERS):
        raise ValueError(
            f"A multiple-choice question has {len(choices)} options, but 1 to {len(LETTERS)} are "
            "expected. Check the row."
        )
    return LETTERS[: len(choices)]


def right_letter(example: Example) -> str:
    """The letter of the right option: the first of the answers, which readers make a letter.

    Raises:
        ValueError: If it is no letter of an option.
    """
    letters = letters_of(example.choices)
    if not example.answers or len(example.answers[0]) != 1 or example.answers[0] not in letters:
        raise ValueError(
            f"Example {example.key!r} has the answers {example.answers!r}, but a letter of its "
            f"{len(example.choices)} options, one of {letters}, is expected first. The split may "
            "be one that is published without answers."
        )
    return example.answers[0]


@dataclass(frozen=True)
class ChoiceAccuracy:
    """The share of questions whose right option is named.

    Reports `accuracy`, `accuracy/group` for every group, and `no_option`, the share of answers that
    name no option; those are wrong.

    Where rows are rotations of one question's options (rows with one detail `question`, as in
    MMBench's circular evaluation), `circular_accuracy` comes first: a question is right if it is so
    in all its rows at hand. Rotations are read from the data, never made.

    Attributes:
        rule: Finds the letter in an answer.
    """

    rule: ChoiceRule = direct_choice

    def __call__(self, answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Score all answers together.

        Raises:
            ValueError: If an example has no letter to compare with.
        """
        require_pairs(answers, examples)
        named = [self.rule(a, e.choices) for a, e in zip(answers, examples, strict=True)]
        values = [
            float(letter == right_letter(example))
            for letter, example in zip(named, examples, strict=True)
        ]
        clusters = picture_clusters(examples)
        figures = _circular(values, examples)
        figures["accuracy"] = mean_figure(values, clusters=clusters)
        figures |= group_figures("accuracy", values, examples, clusters=clusters)
        missing = [float(letter is None) for letter in named]
        figures["no_option"] = mean_figure(missing, clusters=clusters)
        return Scores(figures, tuple(values))


def _circular(values: Sequence[float], examples: Sequence[Example]) -> dict:
    questions: dict[str, list[float]] = {}
    for value, example in zip(values, examples, strict=True):
        question = str(example.details.get("question", example.key))
        questions.setdefault(question, []).append(value)
    if len(questions) == len(examples):
        return {}
    return {"circular_accuracy": mean_figure([min(rows) for rows in questions.values()])}


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
