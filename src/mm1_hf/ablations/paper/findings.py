"""The paper's six findings about pre-training as rules over the points of the study.

Source: MM1, arXiv 2403.09611, sections 3.1 and 3.2. Which points stand for a finding, and the bound
of "hardly matters", are our choice.
"""

from mm1_hf.ablations.findings import Claim, Finding, above, within
from mm1_hf.ablations.paper.settings import Shares

CAPTIONS_ONLY = "100:0:0"
EQUAL = "50:50:0"
INTERLEAVED_ONLY = "0:100:0"
CHOSEN = "45:45:9"
MUCH_TEXT = "33:33:33"
# Captions : interleaved documents : text, by the label of the point.
MIXTURES = {
    CAPTIONS_ONLY: Shares(1, 0, 0),
    EQUAL: Shares(1, 1, 0),
    INTERLEAVED_ONLY: Shares(0, 1, 0),
    CHOSEN: Shares(5, 5, 1),
    MUCH_TEXT: Shares(1, 1, 1),
}
# A difference of the mean of 0, 4 and 8 shots that "hardly matters": three points of a hundred.
HARDLY = 0.03
_LOW, _HIGH = "resolution=12 px", "resolution=16 px"
_SMALL, _BASE = "encoder=small", "encoder=base"
_FEW, _MANY = "tokens=1", "tokens=4"


def _mixed(name: str) -> str:
    return f"mixture={name}"


FINDINGS = (
    Finding(
        1,
        "Image resolution matters most, then the size of the encoder.",
        (
            above("more pixels help (12 → 16 px, score)", "score", _HIGH, _LOW),
            above("a larger encoder helps (small → base, score)", "score", _BASE, _SMALL),
            Claim(
                "more pixels help more than a larger encoder",
                "score",
                (_HIGH, _LOW, _BASE, _SMALL),
                lambda by: by[_HIGH] - by[_LOW] - (by[_BASE] - by[_SMALL]),
            ),
        ),
        "MM1, section 3.1",
        untested="that the encoder's own training data come third.",
    ),
    Finding(
        2,
        "The number of visual tokens and the resolution matter; the type of the connector hardly.",
        (
            above("more visual tokens help (1 → 4, score)", "score", _MANY, _FEW),
            above("more pixels help (12 → 16 px, score)", "score", _HIGH, _LOW),
            *(
                within(
                    f"{other} is within {HARDLY:.0%} of c_abstractor (score)",
                    "score",
                    f"connector={other}",
                    "connector=c_abstractor",
                    bound=HARDLY,
                )
                for other in ("attention_pool", "average_pool")
            ),
        ),
        "MM1, section 3.1",
    ),
    Finding(
        3,
        "Interleaved data give few-shot and text ability; captions give zero-shot.",
        (
            above(
                "with interleaved documents, 8 shots are better",
                "shots_8",
                _mixed(EQUAL),
                _mixed(CAPTIONS_ONLY),
            ),
            above(
                "with interleaved documents, text is better",
                "text_accuracy",
                _mixed(EQUAL),
                _mixed(CAPTIONS_ONLY),
            ),
            above(
                "with captions, zero-shot is better",
                "zero_shot",
                _mixed(CAPTIONS_ONLY),
                _mixed(INTERLEAVED_ONLY),
            ),
        ),
        "MM1, section 3.2",
        untested="zero-shot without captions but with their words. A model of this study that has "
        "seen no caption does not know how one begins, so the last claim is nearly built in.",
    ),
    Finding(
        4,
        "Text-only data help few-shot and keep text ability.",
        (
            above("with text, 4 shots are better", "shots_4", f"text={CHOSEN}", f"text={EQUAL}"),
            above("with text, 8 shots are better", "shots_8", f"text={CHOSEN}", f"text={EQUAL}"),
            above("with text, text is better", "text_accuracy", f"text={CHOSEN}", f"text={EQUAL}"),
        ),
        "MM1, section 3.2",
    ),
    Finding(
        5,
        "Captions, interleaved documents and text as 5:5:1 are the best balance.",
        tuple(
            above(
                f"5:5:1 is better than {other} (balance)", "balance", _mixed(CHOSEN), _mixed(other)
            )
            for other in (CAPTIONS_ONLY, EQUAL, INTERLEAVED_ONLY, MUCH_TEXT)
        ),
        "MM1, section 3.2",
    ),
    Finding(
        6,
        "Synthetic captions help few-shot.",
        tuple(
            above(
                f"with fuller captions, {shots} shots are better",
                f"shots_{shots}",
                "captions=40% full",
                "captions=0% full",
            )
            for shots in (4, 8)
        ),
        "MM1, section 3.2",
    ),
)
