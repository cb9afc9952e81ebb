import pytest

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import ChoiceAccuracy, direct_choice, mmmu, mmmu_choice
from mm1_hf.evaluation.metrics import mmmu_open_match as open_match

CHOICES = ["cat", "dog", "a bird"]

# Computed once with lmms-eval 0.7.3 (parse_mmmu_multi_choice_response); None where it draws lots.
MMMU_GOLDEN = [
    ("B", "B"),
    ("(B)", "B"),
    ("The answer is (A) not (C)", "C"),
    ("B.", "B"),
    ("I would say that it is a dog here", "B"),
    ("dog", None),
    ("A or B", "B"),
    ("C is right, A is not", "A"),
    ("no idea at all", None),
    ("", None),
    ("A cat", "A"),
    ("Answer: B. dog", "B"),
]
# Computed once with lmms-eval 0.7.3 (eval_open of parse_open_response).
OPEN_GOLDEN = [
    ("3", "3", True),
    ("The answer is 3.14159", "3.14", True),
    ("so x = 1,000", "1000", True),
    ("I believe it is the heart", "heart", True),
    ("x", "x", True),
    ("it is x", "x", True),
    ("thus 5\nand 7", "5", True),
    ("nothing", "3", False),
]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("B.", "B"),
        ("B. dog", "B"),
        ("(b) dog", "B"),
        ("B\nbecause it barks", "B"),
        ("The answer is B.", "B"),
        ("Answer: (C)", "C"),
        ("I choose option B, since it barks", "B"),
        ("dog", "B"),
        ("A bird.", "C"),
        ("B dog", "B"),
        ("A dog", None),
        ("the answer is a dog", None),
        ("D", None),
        ("E. none", None),
        ("cat or dog", None),
        ("", None),
    ],
)
def test_a_letter_is_found_where_the_rules_say(answer, letter):
    assert direct_choice(answer, CHOICES) == letter


@pytest.mark.parametrize(("answer", "letter"), MMMU_GOLDEN)
def test_letters_are_found_as_by_the_published_code_of_mmmu(answer, letter):
    assert mmmu_choice(answer, CHOICES) == letter


@pytest.mark.parametrize(("answer", "expected", "right"), OPEN_GOLDEN)
def test_open_answers_match_as_by_the_published_code_of_mmmu(answer, expected, right):
    assert open_match(answer, [expected]) == right
    assert open_match("", [expected]) == 0


def _rows(*answers: str, **details: str) -> list[Example]:
    return [
        Example(str(i), answers=(a,), choices=tuple(CHOICES), group=f"g{i % 2}", details=details)
        for i, a in enumerate(answers)
    ]


def test_answers_without_an_option_are_wrong_and_counted():
    scores = ChoiceAccuracy()(["A", "none", "", "B"], _rows("A", "B", "C", "A"))
    values = {name: figure.value for name, figure in scores.figures.items()}
    assert values == {"accuracy": 0.25, "accuracy/g0": 0.5, "accuracy/g1": 0.0, "no_option": 0.5}
    assert scores.per_example == (1.0, 0.0, 0.0, 0.0)


def test_rotations_of_a_question_are_right_only_together():
    examples = _rows("A", "B", question="7") + _rows("C", "A", question="8")
    figures = ChoiceAccuracy()(["A", "B", "C", "B"], examples).figures
    assert next(iter(figures)) == "circular_accuracy"
    assert figures["circular_accuracy"] == (0.5, 0.5, 2)
    assert figures["accuracy"].value == 0.75


def test_an_example_without_a_letter_is_an_error():
    with pytest.raises(ValueError, match=r"Example '0' has the answers \('D',\)"):
        ChoiceAccuracy()(["A"], _rows("D"))


def test_mmmu_takes_questions_with_and_without_options_together():
    rows = [*_rows("B"), Example("open", answers=("3.14", "pi"), group="Math")]
    figures = mmmu(["(B)", "it is 3.141"], rows).figures
    assert figures["accuracy"].value == figures["accuracy/Math"].value == 1.0
    assert mmmu(["none here", "it is e"], rows).figures["accuracy"].value == 0.0
