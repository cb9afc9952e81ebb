import pytest

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import (
    VQA_ACCURACY,
    normalise_answer,
    normalise_answer_evalai,
    vqa_accuracy,
)
from mm1_hf.evaluation.metrics.vqa import CONTRACTIONS

# The text, as VQA v2's evaluation makes it, and as mmf's answer processor does: computed once with
# lmms-eval 0.7.3 (EvalAIAnswerProcessor).
GOLDEN = [
    ("two dogs", "2 dogs", "2 dogs"),
    ("The cat.", "cat", "cat"),
    ("a  red/green, hat", "red green hat", "red green hat"),
    ("1,000", "1000", "1000"),
    ("10, 000", "10 000", "10 000"),
    ("3.5 m", "3.5 m", "3.5 m"),
    ("U.S.A.", "usa", "usa"),
    ("yes.", "yes", "yes"),
    ("dont", "don't", "don't"),
    ("couldntve", "couldntve", "couldntve"),
    ("none of these", "0 of these", "0 of these"),
    ("t-shirt", "t shirt", "t shirt"),
    ("(left)", "left", "left"),
    ("what? no!", "what no", "what no"),
    ("it's 5 o'clock", "it's 5 o'clock", "it 's 5 o'clock"),
    ("hes", "he's", "he's"),
    ("rock-n-roll", "rock n roll", "rock n roll"),
    ("A", "", ""),
    ("50%", "50%", "50%"),
    ("cat's", "cat's", "cat 's"),
    ("red,blue", "red blue", "redblue"),
    ("\tblack\n", "black", "black"),
    ("oclock", "o'clock", "o'clock"),
    ("mr. t", "mr t", "mr t"),
    ("x_y", "x y", "x y"),
]


@pytest.mark.parametrize(("text", "official", "evalai"), GOLDEN)
def test_answers_are_normalised_as_the_published_code_does(text, official, evalai):
    assert normalise_answer(text) == official
    assert normalise_answer_evalai(text) == evalai


def test_one_missing_apostrophe_is_restored_and_two_are_not():
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert "couldntve" not in CONTRACTIONS
    # The published table has these as they are here.
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert "lets" not in CONTRACTIONS
    # As many as the published table has that can ever apply.
    assert len(CONTRACTIONS) == 114


@pytest.mark.parametrize(
    ("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_accuracy_leaves_each_of_ten_people_out_in_turn(agreeing, accuracy):
    people = ["yes"] * agreeing + ["no"] * (10 - agreeing)
    assert vqa_accuracy("Yes.", people) == pytest.approx(accuracy)


def test_with_fewer_than_four_people_any_of_them_is_right():
    assert vqa_accuracy("a dog", ["dog", "cat", "bird"]) == 1.0
    assert vqa_accuracy("fish", ["dog", "cat", "bird"]) == 0.0


def test_an_empty_answer_is_wrong_even_beside_an_answer_that_is_normalised_to_nothing():
    assert vqa_accuracy("a", ["a"] * 10) == 1.0
    assert vqa_accuracy(" ", ["a"] * 10) == 0.0


def test_without_people_there_is_no_accuracy():
    with pytest.raises(ValueError, match="no answers of people"):
        vqa_accuracy("yes", [])


def test_errors_are_clustered_by_picture():
    def example(key: str, image: str) -> Example:
        return Example(key, answers=("yes",) * 10, details={"image_id": image})

    said = ["yes", "yes", "no", "no"]
    apart = VQA_ACCURACY(said, [example(str(i), str(i)) for i in range(4)])
    together = VQA_ACCURACY(said, [example(str(i), str(i // 2)) for i in range(4)])
    assert apart.figures["vqa_accuracy"].value == together.figures["vqa_accuracy"].value == 0.5
    assert (apart.figures["vqa_accuracy"].count, together.figures["vqa_accuracy"].count) == (4, 2)
    assert (
        together.figures["vqa_accuracy"].standard_error
        > 1.5 * apart.figures["vqa_accuracy"].standard_error
    )
