import pytest

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import mathvista
from mm1_hf.evaluation.metrics.mathvista import extract_answer


def _question(kind: str, answer: str, *, precision: int | None = None, choices=()) -> Example:
    details = {"answer_type": kind, "precision": precision}
    return Example("1", answers=(answer,), choices=choices, group="geometry", details=details)


CHOICES = ("3/11", "8/11", "6/11")


@pytest.mark.parametrize(
    ("said", "example", "extracted"),
    [
        ("14", _question("integer", "14"), "14"),
        ("The number missing in the sequence is 14.", _question("integer", "14"), "14"),
        ("There are 3 and 4, so the answer is 7 of them", _question("integer", "7"), "7"),
        ("1,200", _question("integer", "1200"), "1200"),
        ("7.9", _question("integer", "7"), "7"),
        ("0.6", _question("float", "0.6", precision=1), "0.6"),
        ("Luca needs $1.454 to buy it", _question("float", "1.45", precision=2), "1.45"),
        ("Between [2007, 2008]", _question("list", "[2007, 2008]"), "[2007, 2008]"),
        ("B", _question("text", "8/11", choices=CHOICES), "8/11"),
        ("The correct answer is (B) 8/11.", _question("text", "8/11", choices=CHOICES), "8/11"),
        ("8/11", _question("text", "8/11", choices=CHOICES), "8/11"),
        ("no number", _question("integer", "1"), None),
        ("who knows", _question("text", "8/11", choices=CHOICES), None),
        ("", _question("list", "[1]"), None),
    ],
)
def test_an_answer_is_extracted_in_the_form_that_is_expected(said, example, extracted):
    assert extract_answer(said, example) == extracted


def test_a_trailing_zero_of_the_data_set_is_no_mistake():
    figures = mathvista(["1.2"], [_question("float", "1.20", precision=2)]).figures
    assert figures["accuracy"].value == 1.0


def test_answers_of_another_form_are_wrong_and_counted():
    rows = [_question("integer", "5"), _question("integer", "6")]
    figures = mathvista(["5", "none"], rows).figures
    assert figures["accuracy"].value == figures["no_extraction"].value == 0.5
    assert figures["accuracy/geometry"].value == 0.5


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="answer_type 'colour'"):
        mathvista(["red"], [_question("colour", "red")])
