"""The paper's axes, each named after the section that asks its question.

Three kinds of studies, as fine-tuning and the grid of learning rates have baselines of their own.
Values are scaled to pictures of 16 px and models of a million parameters: our choice throughout.
"""

from dataclasses import replace
from typing import Literal

from mm1_hf.ablations.axis import Axis
from mm1_hf.ablations.paper.findings import CHOSEN, EQUAL, FINDINGS, MIXTURES, MUCH_TEXT
from mm1_hf.ablations.paper.run import run_cell
from mm1_hf.ablations.paper.settings import Decoder, Settings, Tuning
from mm1_hf.ablations.study import Study

Scale = Literal["quick", "full"]

PRETRAINING = "pretraining"
FINETUNING = "finetuning"
RATES = "rates"
RATE_WIDTHS = (32, 64, 128)
TITLE = "The paper's findings at small scale"
PREFACE = """\
Written by `mm1 ablate paper`. Pictures are real handwritten digits, tests are of writers and prose
never trained on, models have half a million parameters, the encoder stays frozen after a
contrastive stage of its own. **These are trends of a toy. They are not the paper's numbers, and say
nothing about models of the paper's size.** What is not reproduced, and what nobody can tell, stands
here as well. How to read it: [Ask a question of your model](../../guides/ablate.md).

`zero_shot`: share of digits right in captions; `shots_4`, `shots_8`: share of pictures labelled
right behind so many examples; `score`: mean of these three; `text_accuracy`, `text_loss`: of tokens
of prose; `balance`: mean of `score`'s three and `text_accuracy`; `questions`: share answered
exactly after fine-tuning; `parameters`: of the decoder, without embeddings."""

_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)

_SECTION_3_1 = "MM1, section 3.1"
_SECTION_3_2 = "MM1, section 3.2"


def paper(scale: Scale = "full") -> tuple[Study, ...]:
    """The studies behind `mm1 ablate paper`.

    Args:
        scale: `"quick"`: three seeds, three values on most axes, for two cores and an hour.
            `"full"`: five seeds, more values, four times the steps.
    """
    baseline = Settings()
    if scale == "full":
        baseline = replace(
            baseline,
            steps=4 * baseline.steps,
            encoder=replace(baseline.encoder, steps=4 * baseline.encoder.steps),
            decoder=replace(baseline.decoder, text_steps=4 * baseline.decoder.text_steps),
        )
    seeds = (0, 1, 2) if scale == "quick" else (0, 1, 2, 3, 4)
    return (
        Study(
            name=PRETRAINING,
            title="What pre-training needs: encoder, connector, data, experts",
            baseline=baseline,
            axes=_pretraining_axes(baseline, scale),
            run=run_cell,
            seeds=seeds,
            shown=("zero_shot", "shots_4", "shots_8", "text_accuracy"),
            findings=FINDINGS,
        ),
        _finetuning(baseline, seeds),
        *(_rates(baseline, width, seeds) for width in RATE_WIDTHS),
    )


def rates_name(width: int) -> str:
    """Name of the study of learning rates of decoders of a width."""
    return f"{RATES}-{width}"


def _pretraining_axes(baseline: Settings, scale: Scale) -> tuple[Axis, ...]:
    full = scale == "full"
    sides = (8, 12, 16, 24, 32) if full else (12, 16, 24)
    tokens = (1, 4, 9, 16) if full else (1, 4, 16)
    connectors = ("c_abstractor", "attention_pool", "average_pool")
    experts = (4, 8) if full else (4,)
    captions = (0.0, 0.07, 0.4, 1.0) if full else (0.0, 0.4)
    text = (EQUAL, CHOSEN, MUCH_TEXT)
    encoder = baseline.encoder
    # Encoders of another size learn at a rate of theirs, about as the law has it for decoders: at
    # the base's, the large one had learned less than the small one.
    return (
        Axis("resolution", "image_side", {f"{side} px": side for side in sides}, _SECTION_3_1),
        Axis(
            "encoder",
            "encoder",
            {
                "small": replace(encoder, width=32, layers=2, learning_rate=3e-3),
                "base": encoder,
                "large": replace(encoder, width=96, learning_rate=1.4e-3),
            },
            _SECTION_3_1,
        ),
        Axis(
            "tokens", "num_image_tokens", {str(number): number for number in tokens}, _SECTION_3_1
        ),
        Axis("connector", "connector", {name: name for name in connectors}, _SECTION_3_1),
        Axis("mixture", "mixture", MIXTURES, _SECTION_3_2),
        Axis("text", "mixture", {name: MIXTURES[name] for name in text}, _SECTION_3_2),
        Axis(
            "captions",
            "full_captions",
            {f"{share:.0%} full": share for share in captions},
            _SECTION_3_2,
        ),
        Axis(
            "experts",
            "decoder",
            {
                "dense": baseline.decoder,
                **{f"{n} experts": replace(baseline.decoder, experts=n) for n in experts},
            },
            "MM1, section 3.4",
        ),
    )


def _finetuning(pretraining: Settings, seeds: tuple[int, ...]) -> Study:
    steps = {f"{steps} steps": steps for steps in (pretraining.steps // 4, pretraining.steps // 2)}
    baseline = replace(pretraining, tuning=Tuning())
    return Study(
        name=FINETUNING,
        title="What fine-tuning owes to pre-training and to tiles",
        baseline=baseline,
        axes=(
            Axis(
                "steps",
                "steps",
                {**steps, f"{pretraining.steps} steps": pretraining.steps},
                "MM1, section 4",
            ),
            Axis(
                "tiling",
                "tuning",
                {"one tile": Tuning(tiling="none"), "five tiles": Tuning(tiling="static")},
                "MM1, section 4",
            ),
        ),
        run=run_cell,
        seeds=seeds,
        shown=("questions",),
    )


def _rates(pretraining: Settings, width: int, seeds: tuple[int, ...]) -> Study:
    # Short, and from nothing: a decoder that was trained on prose brings the rate of that along.
    baseline = replace(
        pretraining,
        decoder=Decoder(width=width, layers=2, text_steps=0),
        learning_rate=_RATES[2],
        steps=pretraining.steps // 4,
    )
    return Study(
        name=rates_name(width),
        title=f"Learning rates of a decoder of width {width}",
        baseline=baseline,
        axes=(
            Axis(
                "rate", "learning_rate", {f"{rate:g}": rate for rate in _RATES}, "MM1, section 3.3"
            ),
        ),
        run=run_cell,
        seeds=seeds,
        shown=("loss",),
    )
