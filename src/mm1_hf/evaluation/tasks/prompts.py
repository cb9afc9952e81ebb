"""Prompts: what stands before the place of the answer.

For a tuned model the pictures come first and the response format is asked for; for a pre-trained
one the text is such that an answer continues it.
"""

from collections.abc import Callable, Sequence

from mm1_hf.evaluation.contract import Example, Segments
from mm1_hf.evaluation.metrics.choices import letters_of
from mm1_hf.model.interleaving_mm1 import CAPTION_PROMPT, VQA_PROMPT

# Source: LLaVA-1.5, arXiv 2310.03744, section 3.3 and table 7; that MM1 uses them is reported, not
# verified.
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
ONE_SENTENCE = "Provide a one-sentence caption for the provided image."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

# Source: MM1, arXiv 2403.09611, as reported; not verified.
CAPTION_STOPS = ("\n",)
VQA_STOPS = ("\n", ".", ",", "Question")
# Our choice where answers hold periods and commas, such as prices, dates and addresses.
LINE_STOPS = ("\n", "Question")


def caption_prompt(example: Example) -> Segments:
    """The pictures, and the request for one sentence."""
    return [*example.images, ONE_SENTENCE]


def caption_continuation(example: Example) -> Segments:
    """MM1's few-shot prompt for captions."""
    return _fill(CAPTION_PROMPT, example, question="")


def short_answer_prompt(example: Example) -> Segments:
    """The pictures, the question, and the request for a word or phrase."""
    return instruction(SHORT_ANSWER)(example)


def instruction(*lines: str) -> Callable[[Example], Segments]:
    """A prompt of the pictures, the question, and `lines` after it."""

    def prompt(example: Example) -> Segments:
        return [*example.images, "\n".join((example.question.strip(), *lines))]

    return prompt


def short_answer_continuation(example: Example) -> Segments:
    """MM1's few-shot prompt for questions."""
    return _fill(VQA_PROMPT, example, question=example.question.strip())


def choice_prompt(example: Example) -> Segments:
    """The pictures, the question, a line for each option, and the request for the letter."""
    return [*example.images, f"{choice_question(example)}\n{LETTER}"]


def choice_continuation(example: Example) -> Segments:
    """Pictures, question and options, after which a letter continues.

    The paper has no few-shot prompt for multiple choice; this one is our choice.
    """
    return [*example.images, f" Question: {choice_question(example)}\nAnswer:"]


def choice_question(example: Example) -> str:
    """The hint, where there is one, the question, and the options with their letters."""
    hint = example.details.get("hint")
    lines = [str(hint).strip()] if hint else []
    return "\n".join([*lines, example.question.strip(), *option_lines(example.choices)])


def option_lines(choices: Sequence[str]) -> list[str]:
    """A line for each option: `A. first`, `B. second`."""
    return [f"{letter}. {text}" for letter, text in zip(letters_of(choices), choices, strict=True)]


def first_answer(example: Example) -> str:
    """The first answer."""
    return example.answers[0]


def commonest_answer(example: Example) -> str:
    """What most people answered; of equals the first."""
    return max(example.answers, key=example.answers.count)


def _fill(template: str, example: Example, *, question: str) -> Segments:
    before, after = template.split("{images}")
    parts = [before, *example.images, after.format(question=question)]
    return [part for part in parts if not isinstance(part, str) or part]
