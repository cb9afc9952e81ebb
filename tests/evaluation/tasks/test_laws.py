"""What any scoring must do: the right answers score the most, chance scores chance."""

import random

import pytest

from mm1_hf.evaluation.tasks import TASKS

from .published import HUB_ROWS

CAPTIONS = ("coco", "nocaps", "textcaps")
# CIDEr reaches 10 where the one reference is repeated; MME 200 for each of the two subtasks.
MAXIMUM = dict.fromkeys(TASKS, 1.0) | dict.fromkeys(CAPTIONS, 10.0) | {"mme": 400.0}

QUARTER = ("vqav2", "textvqa", "vizwiz", "okvqa", "gqa", "docvqa", "infovqa")
LETTERS = ("scienceqa", "mmbench", "mmmu", "ai2d", "seed")
CONSTANTS = {
    **{name: ("blue", 0.25) for name in QUARTER},
    **{name: ("B", 0.25) for name in LETTERS},
    **{name: ("quite another thing", 0.0) for name in CAPTIONS},
    "mathvista": ("2", 0.25),
    "chartqa": ("20", 0.25),
    # Precision is 1/2 and recall 1.
    "pope": ("yes", 2 / 3),
    # Half of the questions and no picture, in two subtasks.
    "mme": ("yes", 100.0),
}
# Answers dealt out anew: what a constant one scores on average over the possible ones.
CHANCE = dict.fromkeys((*QUARTER, *LETTERS, "mathvista", "chartqa"), 0.25) | {
    # "red" and "grey" are alike by 0.5, the threshold of ANLS, and "green" and "grey" by 0.6.
    "docvqa": 0.25 + 2 / 16 * (0.5 + 0.6),
    "infovqa": 0.25 + 2 / 16 * (0.5 + 0.6),
    "pope": 0.5,
    "mme": 2 * (50.0 + 25.0),
}


def _examples(name: str, number: int):
    return TASKS[name].read(HUB_ROWS[name](number))


def _first(name: str, answers, examples):
    return next(iter(TASKS[name].metric(answers, examples).figures.values()))


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_oracle_scores_the_maximum(name):
    examples = _examples(name, 24)
    scores = TASKS[name].metric([TASKS[name].answer(e) for e in examples], examples)
    figure = next(iter(scores.figures.values()))
    assert figure.value == pytest.approx(MAXIMUM[name])
    assert figure.standard_error == pytest.approx(0.0, abs=1e-9)
    assert scores.per_example == (1.0,) * 24


@pytest.mark.parametrize("name", TASKS)
def test_a_constant_answer_scores_its_known_value(name):
    answer, value = CONSTANTS[name]
    assert _first(name, [answer] * 24, _examples(name, 24)).value == pytest.approx(value)


@pytest.mark.parametrize("name", TASKS)
def test_empty_answers_are_wrong(name):
    scores = TASKS[name].metric(["", " \n"] * 12, _examples(name, 24))
    assert next(iter(scores.figures.values())).value == 0
    assert scores.per_example == (0.0,) * 24


@pytest.mark.parametrize("name", CHANCE)
def test_shuffled_answers_score_chance_within_the_error(name):
    examples = _examples(name, 480)
    answers = [TASKS[name].answer(example) for example in examples]
    random.Random(0).shuffle(answers)
    figure = _first(name, answers, examples)
    assert figure.standard_error is not None
    assert 0 < figure.standard_error < 0.05 * MAXIMUM[name]
    assert abs(figure.value - CHANCE[name]) < 3 * figure.standard_error


@pytest.mark.parametrize("name", CAPTIONS)
def test_shuffled_captions_score_far_below_the_right_ones(name):
    examples = _examples(name, 48)
    answers = [TASKS[name].answer(example) for example in examples]
    random.Random(0).shuffle(answers)
    assert _first(name, answers, examples).value < 0.5 * MAXIMUM[name]


@pytest.mark.parametrize(("name", "independent"), [("vqav2", 12), ("docvqa", 12), ("gqa", 24)])
def test_figures_count_pictures_that_repeat_once(name, independent):
    examples = _examples(name, 24)
    answers = [TASKS[name].answer(example) for example in examples]
    assert _first(name, answers, examples).count == independent


@pytest.mark.parametrize("name", TASKS)
def test_the_order_of_examples_does_not_count(name):
    examples = _examples(name, 24)
    answers = [TASKS[name].answer(e) if i % 3 else "x" for i, e in enumerate(examples)]
    forth = TASKS[name].metric(answers, examples)
    back = TASKS[name].metric(answers[::-1], examples[::-1])
    assert forth.per_example == pytest.approx(back.per_example[::-1])
    for figure, figures in forth.figures.items():
        assert figures.value == pytest.approx(back.figures[figure].value)
