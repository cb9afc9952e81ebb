import math

import pytest

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import mme, mme_answer, pope, pope_answer


def _pope(rows: str, **details: str) -> list[Example]:
    answers = {"y": "yes", "n": "no"}
    return [Example(str(i), answers=(answers[r],), details=details) for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"),
        ("No, there is not.", "no"),
        ("There is not a dog. Yes.", "no"),
        ("Yes, there is", "yes"),
        ("I see nothing", None),
        ("", None),
    ],
)
def test_pope_reads_yes_and_no_and_nothing_else(answer, read):
    assert pope_answer(answer) == read


@pytest.mark.parametrize(
    ("answer", "read"),
    # Computed once with lmms-eval 0.7.3 (parse_pred_ans).
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Y", "yes"),
        ("n", "no"),
        ("  Yes, it is", "yes"),
        ("Not", "no"),
        ("It is", None),
        ("yesterday", "yes"),
        ("N/A", None),
        ("No, yes", "no"),
        ("", None),
    ],
)
def test_mme_reads_the_beginning(answer, read):
    assert mme_answer(answer) == read


def test_pope_has_the_figures_of_its_confusion_table():
    said = ["yes", "yes", "no", "yes", "", "no"]
    figures = pope(said, _pope("yyynnn")).figures
    values = {name: figure.value for name, figure in figures.items()}
    assert values == {
        "f1": pytest.approx(2 / 3),
        "accuracy": pytest.approx(3 / 6),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "yes_ratio": pytest.approx(3 / 6),
    }


def test_pope_reports_the_mean_over_ways_of_asking_first():
    rows = [
        Example(f"{group}{i}", answers=("yes" if i else "no",), group=group)
        for group in ("random", "popular")
        for i in range(2)
    ]
    scores = pope(["no", "yes", "yes", "yes"], rows)
    assert next(iter(scores.figures)) == "mean_f1"
    assert scores.figures["f1/random"].value == 1.0
    assert scores.figures["f1/popular"].value == pytest.approx(2 / 3)
    assert scores.figures["mean_f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert scores.figures["accuracy/popular"].value == 0.5


def test_always_yes_has_the_known_figures_on_balanced_rows():
    figures = pope(["yes"] * 8, _pope("yyyynnnn")).figures
    assert figures["accuracy"].value == figures["precision"].value == 0.5
    assert figures["recall"].value == figures["yes_ratio"].value == 1.0
    assert figures["f1"].value == pytest.approx(2 / 3)


def test_the_jackknife_of_a_mean_is_its_ordinary_error():
    figure = pope(["yes", "no", "yes", "yes"], _pope("yyyn")).figures["accuracy"]
    assert figure.standard_error == pytest.approx(math.sqrt(0.25 * 4 / 3 / 4))


def _mme(subtask: str, pictures: int) -> list[Example]:
    return [
        Example(f"{subtask}{p}{a}", answers=(a,), group=subtask, details={"image_id": str(p)})
        for p in range(pictures)
        for a in ("yes", "no")
    ]


def test_mme_adds_accuracy_and_accuracy_plus_of_every_subtask():
    rows = _mme("existence", 2) + _mme("code_reasoning", 1)
    figures = mme(["yes", "no", "yes", "yes", "no", "no"], rows).figures
    values = {name: figure.value for name, figure in figures.items()}
    assert values["accuracy/existence"] == 0.75
    assert values["accuracy_plus/existence"] == 0.5
    assert values["perception"] == 125.0
    assert values["cognition"] == 50.0
    assert values["total"] == 175.0


def test_always_yes_scores_half_of_accuracy_and_nothing_of_accuracy_plus():
    assert mme(["yes"] * 8, _mme("count", 4)).figures["perception"].value == 50.0


def test_a_picture_with_one_question_is_reported():
    scores = mme(["yes"], _mme("count", 1)[:1])
    assert scores.figures["incomplete_pictures"].value == 1
    assert "incomplete_pictures" not in mme(["yes", "no"], _mme("count", 1)).figures


def test_rows_that_are_not_of_the_benchmark_are_errors():
    with pytest.raises(ValueError, match="'colour'"):
        mme(["yes"], _mme("colour", 1)[:1])
    with pytest.raises(ValueError, match="yes or no is expected"):
        pope(["yes"], [Example("1", answers=("maybe",))])
