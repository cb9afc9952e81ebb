"""The same cases through an installed lmms-eval: the opt-in job of the harnesses."""

import importlib
import itertools
import random

import pytest

from mm1_hf.evaluation.metrics import (
    anls,
    mme_answer,
    mmmu_choice,
    mmmu_open_match,
    normalise_answer,
    normalise_answer_evalai,
    relaxed_accuracy,
)
from mm1_hf.evaluation.metrics.vqa import CONTRACTIONS

pytestmark = [
    pytest.mark.slow,
    # Importing the harness runs other people's code, whose warnings are not ours to mend.
    pytest.mark.filterwarnings("ignore"),
]

PIECES = [
    *"a the an two Ten none dont I'm 3.5 1,000 10, yes. No! (red) blue/green t-shirt".split(),
    *"'ow'sat cat's $5 50% U.S. .. Im yall'd've what? @home x_y 1. -3 ; : somebody'd".split(),
    *"let's é don't A (B) C. is answer = 12,34 1e3 so final".split(),
    "\n",
    "\t",
]


def _lmms(path: str):
    pytest.importorskip("lmms_eval", exc_type=ImportError)
    return importlib.import_module(f"lmms_eval.{path}")


def _texts(seed: int, count: int = 3000) -> list[str]:
    chance = random.Random(seed)
    return [
        chance.choice((" ", "")).join(chance.choices(PIECES, k=chance.randint(1, 6)))
        for _ in range(count)
    ]


def test_vqa_answers_are_normalised_alike():
    processor = _lmms("tasks._task_utils.vqa_eval_metric").EvalAIAnswerProcessor()
    table = {k: v for k, v in processor.CONTRACTIONS.items() if k == k.lower() and k != v}
    assert table == CONTRACTIONS
    for text in _texts(0):
        line = text.replace("\n", " ").replace("\t", " ").strip()
        theirs = processor.process_digit_article(processor.process_punctuation(line))
        assert normalise_answer(text) == theirs, text
        assert normalise_answer_evalai(text) == processor(text), text


def test_short_answers_score_alike():
    metrics, charts = _lmms("api.metrics"), _lmms("tasks.chartqa.utils")
    texts = [text.strip() or "x" for text in _texts(1)]
    for said, expected in itertools.pairwise(texts):
        theirs = metrics.anls([expected], [said])["anls"]
        assert anls(said, [expected]) == pytest.approx(theirs), (said, expected)
        relaxed = charts.relaxed_correctness(said, expected)
        assert relaxed_accuracy(said, [expected]) == relaxed, (said, expected)


def test_options_and_open_answers_are_read_alike(monkeypatch):
    rules, tasks = _lmms("tasks._task_utils.mmmu_mcq_utils"), _lmms("tasks.mmmu.utils")
    monkeypatch.setattr(rules.random, "choice", lambda letters: None)
    options = ["cat", "don't", "a 3.5"]
    texts, letters = rules.get_multi_choice_info(options)
    for text in _texts(2):
        theirs = rules.parse_mmmu_multi_choice_response(text, letters, texts)
        assert mmmu_choice(text, options) == theirs, text
        if text.strip():
            parsed = tasks.parse_open_response(text)
            for expected in ("3.5", "1000", "cat", "a"):
                right = tasks.eval_open(expected, parsed)
                assert mmmu_open_match(text, [expected]) == right, (text, expected)


def test_yes_and_no_are_read_alike():
    theirs = _lmms("tasks.mme.utils").parse_pred_ans
    for text in ["Yes", "no.", "Y", "n", " Yes, it is", "Not", "It is", "yesterday", "", "N/A"]:
        assert (mme_answer(text) or "other") == theirs(text), text
