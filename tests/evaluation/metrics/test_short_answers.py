import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import (
    ANLS,
    RELAXED_ACCURACY,
    MeanMetric,
    anls,
    edit_distance,
    exact_match,
    relaxed_accuracy,
)

# Computed once with lmms-eval 0.7.3 (api/metrics.py).
ANLS_GOLDEN = [
    ("cat", ["cat", "cats"], 1.0),
    ("the cat", ["cat"], 0.0),
    ("kat", ["cat"], 2 / 3),
    ("kitten", ["cat"], 0.0),
    ("12/05/1999", ["12/5/1999"], 0.9),
    ("ITC Limited", ["itc limited", "ITC"], 1.0),
    ("abcd", ["abxx"], 0.5),
    ("a  b", ["a b"], 1.0),
]
# Computed once with lmms-eval 0.7.3 (tasks/chartqa/utils.py).
RELAXED_GOLDEN = [
    ("14", "14.5", 1),
    ("14", "15", 0),
    ("5%", "0.05", 1),
    ("5", "5%", 0),
    ("0", "0.0", 0),
    ("Yes", "yes", 1),
    ("1,000", "1000", 0),
    ("10.5", "10", 1),
    ("10.51", "10", 0),
    ("-95", "-100", 1),
    ("abc", "10", 0),
]


@pytest.mark.parametrize(("answer", "answers", "score"), ANLS_GOLDEN)
def test_anls_equals_the_published_code(answer, answers, score):
    assert anls(answer, answers) == pytest.approx(score)


@pytest.mark.parametrize(("answer", "expected", "score"), RELAXED_GOLDEN)
def test_relaxed_accuracy_equals_the_published_code(answer, expected, score):
    assert relaxed_accuracy(answer, [expected]) == score


@given(st.text("abc ", max_size=8), st.text("abc ", max_size=8), st.text("abc ", max_size=8))
def test_the_edit_distance_is_a_metric(one, other, third):
    assert edit_distance(one, other) == edit_distance(other, one)
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, third) <= edit_distance(one, other) + edit_distance(other, third)


def test_exact_match_takes_case_and_punctuation_for_nothing_but_words_for_something():
    assert exact_match(" Yes. ", ["yes"]) == 1
    assert exact_match("yes it is", ["yes"]) == 0
    assert exact_match(" ", [" "]) == exact_match(".", ["x"]) == 0


def test_groups_have_figures_of_their_own():
    examples = [
        Example("1", answers=("10",), group="human"),
        Example("2", answers=("10",), group="augmented"),
        Example("3", answers=("10",), group="human"),
    ]
    figures = RELAXED_ACCURACY(["10", "20", "12"], examples).figures
    values = {name: figure.value for name, figure in figures.items()}
    assert values == {
        "relaxed_accuracy": pytest.approx(1 / 3),
        "relaxed_accuracy/human": 0.5,
        "relaxed_accuracy/augmented": 0.0,
    }


def test_an_empty_answer_is_not_shown_to_the_score():
    metric = MeanMetric("always", lambda answer, example: 1.0)
    assert metric(["", "x"], [Example("1"), Example("2")]).per_example == (0.0, 1.0)


def test_as_many_answers_as_examples_are_expected():
    with pytest.raises(ValueError, match="1 answers for 2 examples"):
        ANLS(["a"], [Example("1", answers=("a",))] * 2)
    with pytest.raises(ValueError, match="no examples"):
        ANLS([], [])
