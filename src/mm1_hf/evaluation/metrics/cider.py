"""CIDEr: how much a caption shares with what people wrote; telling words weigh more."""

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mm1_hf.evaluation.contract import Example, Scores, mean_figure
from mm1_hf.evaluation.metrics.figures import picture_clusters, require_pairs

LONGEST = 4
SIGMA = 6.0
SCALE = 10.0

Tokeniser = Callable[[Sequence[str]], list[str]]

# Tokens that pycocoevalcap removes after the Penn Treebank tokeniser; brackets stay.
_REMOVED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_TWO_WORDS = re.compile(
    r"\b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:gim|lem)(?=me\b))", re.IGNORECASE
)
_TOKEN = re.compile(
    r"""
    (?:[a-z]\.){2,}                                     # u.s.
    | (?:mr|mrs|ms|dr|st|jr|sr|vs|etc)\.
    | no\.(?=\s*\d)                                    # no. 5, but not "he says no."
    | \d+(?:[.,:/]\d+)+ | \.\d+                       # 1,000  3.5  10:30  1/2
    | \w+(?=n't\b) | n't\b                             # do n't
    | '(?:s|m|d|re|ve|ll)\b                            # dog 's
    | '[nN]' | o'clock
    | (?-i:[A-Z]+&[A-Z]+)                              # AT&T, but not dog&cat
    | www\.\w+(?:\.\w+)* | \w+\.(?:com|org|net)\b
    | \w+(?:[-/]\w+)*                                  # black-and-white
    | \.{2,} | -{2,}
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenise(captions: Sequence[str]) -> list[str]:
    """Captions as small words parted by spaces, without punctuation.

    A small tokeniser of our own in the manner of the Penn Treebank: contractions and possessives
    are parted (`do n't`, `dog 's`), hyphenated words and numbers stay whole, brackets become
    `-lrb-`. It is not the Java program that the official evaluation runs (`tokenise_ptb`), and
    differs from it where abbreviations, money and unusual signs occur.
    """
    lines = []
    for caption in captions:
        text = caption.replace("\u2019", "'").replace("\n", " ")
        text = _TWO_WORDS.sub(r"\g<0> ", text)
        found = [match.group().lower() for match in _TOKEN.finditer(text)]
        tokens = [_BRACKETS.get(token, token) for token in found]
        lines.append(" ".join(token for token in tokens if token not in _REMOVED and token != '"'))
    return lines


def tokenise_ptb(captions: Sequence[str]) -> list[str]:
    """Captions as the official evaluation tokenises them, by `pycocoevalcap` and Java.

    Raises:
        ValueError: If `pycocoevalcap` is not installed, or Java is not found.
    """
    try:
        ptb = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer")
    except ImportError as error:
        raise ValueError(
            "The Penn Treebank tokeniser is asked for, but pycocoevalcap is not installed. Install "
            "it with `pip install pycocoevalcap` (it runs Java), or use the default tokeniser."
        ) from error
    rows = {place: [{"caption": caption}] for place, caption in enumerate(captions)}
    try:
        tokens = ptb.PTBTokenizer().tokenize(rows)
    except FileNotFoundError as error:
        raise ValueError(
            "The Penn Treebank tokeniser of pycocoevalcap runs Java, but no `java` is found. "
            "Install a Java runtime, or use the default tokeniser."
        ) from error
    return [tokens[place][0] for place in range(len(captions))]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of tokenised captions, one score for each, from 0 to 10.

    The words of a corpus weigh by tf-idf, where a document is all references of one picture. For
    1- to 4-grams, the weights of a candidate, clipped to those of a reference, are compared by
    cosine, times exp(-d² / 2σ²) for the difference d of lengths; the mean over references and
    n-gram lengths, times 10.

    Scores depend on the other pictures: with a single one, every word is in every document, weighs
    nothing, and all scores are 0.

    Source: Vedantam et al., arXiv 1411.5726, section 4 and appendix; σ = 6, the factor, lengths
    counted in bigrams, and idf from the references at hand as in pycocoevalcap 1.2.

    Args:
        candidates: One caption for each picture, words parted by spaces.
        references: What people wrote for each picture, likewise.

    Raises:
        ValueError: If the two differ in length, or a picture has no references.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"There are {len(candidates)} captions for {len(references)} pictures with references, "
            "but one caption for each picture is expected."
        )
    empty = [place for place, texts in enumerate(references) if not texts]
    if empty:
        raise ValueError(
            f"Picture {empty[0]} has no references ({len(empty)} in all), but CIDEr compares with "
            "at least one. Use a split that is published with captions."
        )
    counted = [[_grams(text) for text in texts] for texts in references]
    documents = Counter(gram for grams in counted for gram in set().union(*grams))
    size = math.log(len(references))
    scores = []
    for candidate, grams in zip(candidates, counted, strict=True):
        mine = _vector(_grams(candidate), documents, size)
        alike = [_similarity(mine, _vector(theirs, documents, size)) for theirs in grams]
        scores.append(SCALE * math.fsum(alike) / len(alike))
    return scores


@dataclass(frozen=True)
class Cider:
    """CIDEr-D over a corpus, in the unit of pycocoevalcap: 1.146 is what papers print as 114.6.

    The error is that of the mean over pictures with the weights of words held fixed. What an
    example shows as its own score is cut at 1, since single captions reach up to 10.

    Attributes:
        tokenise: Makes words of captions: `tokenise` or `tokenise_ptb`.
    """

    tokenise: Tokeniser = tokenise

    def __call__(self, answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Score all captions together.

        Raises:
            ValueError: If an example has no captions to compare with.
        """
        require_pairs(answers, examples)
        counts = [len(example.answers) for example in examples]
        lines = self.tokenise([*answers, *(one for e in examples for one in e.answers)])
        candidates, rest = lines[: len(answers)], iter(lines[len(answers) :])
        references = [[next(rest) for _ in range(count)] for count in counts]
        scores = cider(candidates, references)
        figure = mean_figure(scores, clusters=picture_clusters(examples))
        return Scores({"cider": figure}, tuple(min(1.0, score) for score in scores))


_Gram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    weights: tuple[dict[_Gram, float], ...]
    norms: tuple[float, ...]
    length: int


def _grams(text: str) -> Counter[_Gram]:
    words = text.split()
    return Counter(
        tuple(words[start : start + count])
        for count in range(1, LONGEST + 1)
        for start in range(len(words) - count + 1)
    )


def _vector(grams: Counter[_Gram], documents: Counter[_Gram], size: float) -> _Vector:
    weights: tuple[dict[_Gram, float], ...] = tuple({} for _ in range(LONGEST))
    for gram, count in grams.items():
        weights[len(gram) - 1][gram] = count * (size - math.log(max(1, documents[gram])))
    norms = tuple(math.sqrt(math.fsum(w * w for w in part.values())) for part in weights)
    return _Vector(weights, norms, sum(count for gram, count in grams.items() if len(gram) == 2))


def _similarity(mine: _Vector, theirs: _Vector) -> float:
    total = 0.0
    for order in range(LONGEST):
        norm = mine.norms[order] * theirs.norms[order]
        if norm:
            shared = theirs.weights[order]
            total += (
                math.fsum(
                    min(weight, shared[gram]) * shared[gram]
                    for gram, weight in mine.weights[order].items()
                    if gram in shared
                )
                / norm
            )
    penalty = math.exp(-((mine.length - theirs.length) ** 2) / (2 * SIGMA**2))
    return penalty * total / LONGEST
