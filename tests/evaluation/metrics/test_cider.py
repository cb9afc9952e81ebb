import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_hf.evaluation import Example
from mm1_hf.evaluation.metrics import Cider, cider, tokenise, tokenise_ptb

REFERENCES = [
    [
        "A man riding a wave on top of a surfboard.",
        "A surfer rides a large blue wave.",
        "The man is surfing in the ocean.",
    ],
    ["Two dogs play in the snow, near a tree!", "Dogs running in deep snow."],
    [
        "A red double-decker bus drives down the street.",
        "A bus with people on it",
        "The bus doesn't stop.",
        "A big red bus is driving on a London street",
        "A bus.",
    ],
    ["A plate of food with broccoli and rice on it."],
    [
        "A cat's sleeping on a laptop (it is black).",
        "A black cat lies on the keyboard of a computer",
    ],
]
CANDIDATES = [
    "A man riding a wave on a surfboard.",
    "Two dogs are playing in the snow",
    "a red bus",
    "A plate of food with broccoli and rice on it.",
    "dog",
]
# Computed once with pycocoevalcap 1.2, its Java tokeniser included.
GOLDEN = [2.607586935000066, 1.8907283071748624, 1.2199466017228384, 10.0, 0.0]
GOLDEN_MEAN = 3.1436523687795535

# As the Java tokeniser of pycocoevalcap 1.2 writes them.
TOKENS = {
    "A cat's sleeping on a laptop (it is black).": (
        "a cat 's sleeping on a laptop -lrb- it is black -rrb-"
    ),
    "The bus doesn't stop.": "the bus does n't stop",
    "The clock reads 10:30 a.m. on a black-and-white wall.": (
        "the clock reads 10:30 a.m. on a black-and-white wall"
    ),
    "A bus with the number 1,000 on it...": "a bus with the number 1,000 on it",
    'A sign that says "STOP" in red letters': "a sign that says stop in red letters",
    "I cannot see the U.S. flag": "i can not see the u.s. flag",
    "kids' toys on the floor": "kids toys on the floor",
    "A cafe in Zürich, café au lait": "a cafe in zürich café au lait",
    "isn't wasn't can't won't": "is n't was n't ca n't wo n't",
    "he'll we've I'd o'clock": "he 'll we 've i 'd o'clock",
}

words = st.sampled_from("a man dog rides sits red blue bus wave tree".split())
captions = st.lists(words, min_size=1, max_size=9).map(" ".join)


def _examples(references):
    return [Example(str(i), answers=tuple(texts)) for i, texts in enumerate(references)]


def test_scores_equal_those_of_pycocoevalcap():
    references = [tokenise(texts) for texts in REFERENCES]
    assert cider(tokenise(CANDIDATES), references) == pytest.approx(GOLDEN)
    figure = Cider()(CANDIDATES, _examples(REFERENCES)).figures["cider"]
    assert figure.value == pytest.approx(GOLDEN_MEAN)
    assert figure.count == 5


@pytest.mark.parametrize(("caption", "tokens"), TOKENS.items())
def test_the_tokeniser_equals_the_penn_treebank_one_on_usual_captions(caption, tokens):
    assert tokenise([caption]) == [tokens]


@settings(max_examples=30)
@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=2))
def test_scores_lie_between_0_and_10_and_order_of_references_does_not_count(rows):
    candidates, references = [c for c, _ in rows], [r for _, r in rows]
    scores = cider(candidates, references)
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in scores)
    assert cider(candidates, [r[::-1] for r in references]) == pytest.approx(scores)


def test_the_only_reference_of_a_picture_scores_ten():
    references = [["a man rides a wave"], ["two dogs play in snow"], ["a red bus stops here"]]
    assert cider([texts[0] for texts in references], references) == pytest.approx([10.0] * 3)


def test_an_empty_caption_scores_nothing_and_one_picture_alone_weighs_nothing():
    assert cider(["", "a dog"], [["a cat sits"], ["a dog"]])[0] == 0.0
    assert cider(["a cat sits here"], [["a cat sits here"]]) == [0.0]


def test_a_picture_without_references_is_an_error():
    with pytest.raises(ValueError, match="Picture 1 has no references"):
        cider(["a", "b"], [["a"], []])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap runs Java")
def test_scores_equal_those_of_an_installed_pycocoevalcap():
    module = pytest.importorskip("pycocoevalcap.cider.cider")
    theirs = [tokenise_ptb(texts) for texts in REFERENCES]
    assert theirs == [tokenise(texts) for texts in REFERENCES]
    candidates = tokenise_ptb(CANDIDATES)
    _, scores = module.Cider().compute_score(
        dict(enumerate(theirs)), {i: [text] for i, text in enumerate(candidates)}
    )
    assert cider(candidates, theirs) == pytest.approx(list(scores))
    assert list(TOKENS.values()) == tokenise_ptb(list(TOKENS))


def test_a_missing_tokeniser_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer.ptbtokenizer", None)
    with pytest.raises(ValueError, match="pip install pycocoevalcap"):
        tokenise_ptb(["a dog"])
