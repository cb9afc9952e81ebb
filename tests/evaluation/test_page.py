import re
from html.parser import HTMLParser

import pytest

from mm1_hf.evaluation import Example, evaluate
from mm1_hf.evaluation.page import render_page
from mm1_hf.evaluation.questions import Questioner
from mm1_hf.evaluation.settings import EvaluationSettings

from . import small_tasks as small

HOSTILE = '<script>alert("x")</script> <img src=x onerror=y> & \x07 \ud800 {} $title'


@pytest.fixture(scope="module")
def processor():
    return small.processor()


class Reader(HTMLParser):
    """Notes tags, and that every one is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(processor, asked, *, say="red", folder=None, **settings):
    evaluate(
        small.Speaker(processor, lambda text: say),
        processor,
        small.task(metric=graded),
        asked,
        output=folder,
        progress=False,
        **settings,
    )
    return (folder / "answers.html").read_text(encoding="utf-8")


def graded(answers, examples):
    """Right for its first answer, half right for its second."""
    from mm1_hf.evaluation import Scores, mean_figure

    scores = [
        1.0 if answer == example.answers[0] else 0.5 * (answer in example.answers)
        for answer, example in zip(answers, examples, strict=True)
    ]
    return Scores({"accuracy": mean_figure(scores)}, tuple(scores))


def test_right_and_wrong_answers_stand_with_their_pictures(processor, tmp_path):
    asked = small.examples(8)
    asked[1] = Example(
        key="half", images=asked[1].images, question="?", answers=("a", "red"), choices=("x", "y")
    )
    page = page_of(processor, asked, folder=tmp_path)
    reader = Reader(page)
    assert not reader.open and "script" not in reader.tags
    assert page.count('<article class="right">') == 2
    assert page.count('<article class="part">') == 1
    assert page.count('<article class="wrong">') == 5
    assert len(re.findall(r'<img src="data:image/png;base64,[\w+/=]+"', page)) == 8
    assert "8 of the 8 answers" in page and "◐ partly right (0.50)" in page


def test_text_of_others_stays_text(processor, tmp_path):
    asked = [
        Example(
            key=HOSTILE,
            question=HOSTILE,
            answers=(HOSTILE, "b", "b"),
            choices=(HOSTILE,),
            group=HOSTILE,
        )
    ]
    train = [Example(key=HOSTILE + "t", question=HOSTILE + "!", answers=(HOSTILE,))]
    page = page_of(
        processor,
        asked,
        say=HOSTILE.replace("\ud800", ""),
        folder=tmp_path,
        num_shots=1,
        demonstrations=train,
        max_new_tokens=99,
    )
    reader = Reader(page)
    assert "script" not in reader.tags and reader.tags.count("img") == 0
    assert "&lt;script&gt;" in page and "\x07" not in page and "b ×2" in page
    assert "default-src 'none'" in page


def test_what_was_not_asked_says_so(processor, tmp_path):
    asked = [
        *small.examples(1),
        Example(key="bad", images=(b"no",), question="lost?", answers=("a",)),
        Example(key="none", question="?", answers=("a",)),
    ]
    page = page_of(processor, asked, say="", on_bad_image="count", folder=tmp_path)
    assert "Not asked, a picture cannot be decoded." in page and "lost?" in page
    assert page.count("<i>nothing</i>") == 3


def test_demonstrations_are_listed(processor, tmp_path):
    train = small.examples(4, start=50, split="t")
    page = page_of(processor, small.examples(2), num_shots=3, demonstrations=train, folder=tmp_path)
    assert page.count("<summary>3 demonstrations</summary>") == 2
    assert page.count("<li>") == 6


@pytest.mark.parametrize(("most", "right", "wrong"), [(8, 4, 4), (38, 10, 28), (40, 10, 30)])
def test_a_long_page_keeps_right_and_wrong_answers(processor, most, right, wrong):
    asked, task = small.examples(40), small.task()
    speaker = small.Speaker(processor, lambda text: "red")
    result = evaluate(speaker, processor, task, asked, progress=False)
    questioner = Questioner(
        model=speaker,
        processor=processor,
        task=task,
        settings=EvaluationSettings(),
        demonstrations=None,
    )
    page = render_page(result, questioner, asked, most=most)
    assert page.count('<article class="right">') == right
    assert page.count('<article class="wrong">') == wrong
    assert f"{most} of the 40 answers" in page
