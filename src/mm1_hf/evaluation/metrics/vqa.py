"""VQA accuracy: how many of ten people gave this answer, after the official normalisation."""

import re
from collections.abc import Callable, Sequence

from mm1_hf.evaluation.contract import Example
from mm1_hf.evaluation.metrics.figures import MeanMetric

ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

# What the official rules write with an apostrophe. Each is restored where exactly one of its
# apostrophes is missing, as in the official table.
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _contractions() -> dict[str, str]:
    # The official table maps this one the other way round.
    table = {"somebody'd": "somebodyd"}
    for word in _APOSTROPHES.split():
        for place, letter in enumerate(word):
            if letter == "'":
                table[word[:place] + word[place + 1 :]] = word
    return table


CONTRACTIONS = _contractions()
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalise_answer(text: str) -> str:
    """An answer as the official VQA evaluation compares it.

    In this order: line breaks and tabs become spaces. A punctuation mark is removed where it stands
    beside a space anywhere in the answer, or where the answer has a comma inside a number; else it
    becomes a space. A period stays before a digit only. Letters become small, number words up to
    ten become digits, articles are dropped, missing apostrophes are restored.

    Source: the evaluation code of VQA v2 (github.com/GT-Vision-Lab/VQA,
    PythonEvaluationTools/vqaEvaluation/vqaEval.py). There answers are normalised only where people
    differ; here always, as the evaluation server and lmms-eval do.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    kept = text
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if beside_space or in_number else " ")
    words = [NUMBER_WORDS.get(word, word) for word in _PERIOD.sub("", kept).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise_answer_evalai(text: str) -> str:
    """An answer as TextVQA's evaluation compares it.

    As `normalise_answer`, after letters were made small, commas and question marks removed, and
    `'s` parted from its word.

    Source: the answer processor of facebookresearch/mmf (pythia/tasks/processors.py), which the
    evaluation server of TextVQA and lmms-eval (TextVQA, VizWiz, OKVQA) use.
    """
    return normalise_answer(
        text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    )


def vqa_accuracy(
    answer: str,
    answers: Sequence[str],
    *,
    normalise: Callable[[str], str] = normalise_answer,
) -> float:
    """How far people agree with an answer: the mean over people of min(1, agreeing others / 3).

    With fewer than four people, three others do not exist and nobody could score 1: then an answer
    is right if it equals any of theirs (our choice).

    Source: VQA v2's evaluation (visualqa.org/evaluation.html).

    Args:
        answer: What the model said; an empty one scores 0.
        answers: What each person said, usually ten people.
        normalise: Makes answers comparable.

    Raises:
        ValueError: If there are no answers of people.
    """
    if not answers:
        raise ValueError(
            "There are no answers of people to compare with: the split may be one that is "
            "published without answers. Use a split that has them."
        )
    if not answer.strip():
        return 0.0
    said = normalise(answer)
    same = {one for one in set(answers) if normalise(one) == said}
    agrees = [one in same for one in answers]
    if len(agrees) < 4:
        return float(any(agrees))
    total = sum(agrees)
    return sum(min(1.0, (total - own) / 3) for own in agrees) / len(agrees)


def _official(answer: str, example: Example) -> float:
    return vqa_accuracy(answer, example.answers)


def _evalai(answer: str, example: Example) -> float:
    return vqa_accuracy(answer, example.answers, normalise=normalise_answer_evalai)


VQA_ACCURACY = MeanMetric("vqa_accuracy", _official)
VQA_ACCURACY_EVALAI = MeanMetric("vqa_accuracy", _evalai)
