import pytest

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.tasks import TASKS

from .published import HUB_ROWS, encoded

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
OPTIONS = "A. red\nB. green\nC. blue\nD. grey"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
SENTENCE = "Provide a one-sentence caption for the provided image."
PROMPTS = {
    "coco": SENTENCE,
    "nocaps": SENTENCE,
    "textcaps": SENTENCE,
    "vqav2": f"What colour is it (2)?\n{SHORT}",
    "textvqa": f"what is written (2)?\n{SHORT}",
    "vizwiz": f"What is this (2)?\n{UNANSWERABLE}\n{SHORT}",
    "okvqa": f"What colour is it (2)?\n{SHORT}",
    "gqa": f"Which colour is it (2)?\n{SHORT}",
    "scienceqa": f"Which is it (2)?\n{OPTIONS}\n{LETTER}",
    "mmbench": f"Look well.\nWhich is it (2)?\n{OPTIONS}\n{LETTER}",
    "ai2d": f"Which is it (2)?\n{OPTIONS}\n{LETTER}",
    "seed": f"Which is it (2)?\n{OPTIONS}\n{LETTER}",
    "mathvista": "Hint: Please answer.\nQuestion: How many (2)?",
    "pope": f"Is there a dog in the image (0)?\n{SHORT}",
    "mme": f"Is it so (2)?\n{SHORT}",
    "chartqa": f"How much (2)?\n{SHORT}",
    "docvqa": f"What is the title (2)?\n{SHORT}",
    "infovqa": f"What is the title (2)?\n{SHORT}",
}
CONTINUATIONS = {
    "coco": " A photo of",
    "vqav2": " Question: What colour is it (2)? Short answer:",
    "pope": " Question: Is there a dog in the image (0)? Short answer:",
    "seed": f" Question: Which is it (2)?\n{OPTIONS}\nAnswer:",
    "mathvista": " Question: How many (2)?\nAnswer:",
}


def _example(name: str) -> Example:
    return TASKS[name].read(HUB_ROWS[name](3))[2]


@pytest.mark.parametrize(("name", "text"), PROMPTS.items())
def test_a_tuned_model_is_asked_for_the_form_of_the_answer(name, text):
    example = _example(name)
    assert TASKS[name].prompt(example) == [*example.images, text]


@pytest.mark.parametrize(("name", "text"), CONTINUATIONS.items())
def test_a_pre_trained_model_continues_a_text(name, text):
    example = _example(name)
    assert TASKS[name].continuation(example) == [*example.images, text]


def test_every_task_has_a_prompt_of_its_own_in_these_tests():
    assert set(PROMPTS) | {"mmmu"} == set(TASKS)


def test_the_hint_of_scienceqa_stands_before_the_question():
    example = TASKS["scienceqa"].read(HUB_ROWS["scienceqa"](2))[1]
    text = TASKS["scienceqa"].prompt(example)[-1]
    assert text.startswith("Context: Look well.\nWhich is it (1)?\n")


def test_a_question_without_a_picture_is_text_alone():
    example = TASKS["scienceqa"].read(HUB_ROWS["scienceqa"](1))[0]
    assert [type(segment) for segment in TASKS["scienceqa"].prompt(example)] == [str]


def test_pictures_of_mmmu_stand_where_question_and_options_name_them():
    example = _example("mmmu")
    assert TASKS["mmmu"].prompt(example) == [
        "What does ",
        encoded(2),
        " show (2)?\nA. red\nB. green\nC. ",
        encoded(3),
        f"\nD. grey\n\n{LETTER}",
    ]


def test_pictures_of_mmmu_without_a_place_come_first_and_later_marks_stay_text():
    row = HUB_ROWS["mmmu"](1)[0]
    row |= {"question": "See <image 2>, again <image 2> and <image 9>.", "options": "[]"}
    row |= {"question_type": "open", "answer": "red", "image_2": {"bytes": b"2", "path": None}}
    (example,) = TASKS["mmmu"].read([row])
    assert TASKS["mmmu"].prompt(example) == [
        encoded(0),
        "See ",
        b"2",
        f", again <image 2> and <image 9>.\n\n{SHORT}",
    ]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({}, "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end."),
        (
            {"answer_type": "float", "precision": 1.0, "answer": "1.2"},
            "requiring a floating-point number with one decimal place and provide the final value, "
            "e.g., 1.2, 1.3, 1.4, at the end.",
        ),
        (
            {"answer_type": "text", "choices": ["x", "y"], "answer": "y"},
            "and provide the correct option letter, e.g., A, B, C, D, at the end.",
        ),
    ],
)
def test_mathvistas_query_is_made_of_its_parts_where_a_row_has_none(change, hint):
    row = HUB_ROWS["mathvista"](1)[0] | {"query": None, "unit": "m"} | change
    (example,) = TASKS["mathvista"].read([row])
    lines = [f"Hint: Please answer the question {hint}", "Question: How many (0)? (Unit: m)"]
    if "choices" in change:
        lines += ["Choices:", "(A) x", "(B) y"]
        assert TASKS["mathvista"].answer(example) == "B"
    assert TASKS["mathvista"].prompt(example)[-1] == "\n".join(lines)


def test_a_question_is_text_whatever_it_says():
    row = HUB_ROWS["vqav2"](1)[0] | {"question": "What is <image> {question} {images}?"}
    (example,) = TASKS["vqav2"].read([row])
    text = TASKS["vqav2"].continuation(example)[-1]
    assert text == " Question: What is <image> {question} {images}? Short answer:"


def test_answers_of_a_continuation_end_where_the_paper_ends_them():
    assert TASKS["vqav2"].stops == ("\n", ".", ",", "Question")
    assert TASKS["coco"].stops == ("\n",)
    # An amount such as 3.5 would be cut by a period.
    assert "." not in TASKS["chartqa"].stops + TASKS["docvqa"].stops + TASKS["mathvista"].stops
