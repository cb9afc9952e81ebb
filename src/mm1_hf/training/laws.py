"""The paper's rules for learning rate, its decay over time, and weight decay: pure arithmetic."""

import math
from typing import Literal, get_args

DecayScaling = Literal["times_rate", "alone"]

DECAY_SCALINGS: tuple[str, ...] = get_args(DecayScaling)

# Source: MM1, arXiv 2403.09611, section 3.3 (published).
DECAY_PER_RATE = 0.1


def learning_rate(num_parameters: int) -> float:
    """Peak learning rate of pre-training, exp(-0.4214 ln N - 0.5535).

    Fitted to language models of 9M, 85M, 302M and 1.2B parameters. MM1 rounds what the law gives:
    6e-5, 4e-5 and 2e-5 at 3B, 7B and 30B. A sparse model takes the rate of its dense parent, as
    reported.

    >>> tuple(float(f"{learning_rate(n):.3g}") for n in (9_000_000, 1_200_000_000, 3_000_000_000))
    (0.000675, 8.58e-05, 5.83e-05)

    Args:
        num_parameters: N, the language model's parameters without embeddings (as reported).

    Raises:
        ValueError: If N is not positive.

    Source: MM1, arXiv 2403.09611, section 3.3.
    """
    if num_parameters <= 0:
        raise ValueError(
            f"num_parameters is {num_parameters}, but the language model's parameters without "
            "embeddings are expected, a positive number."
        )
    return math.exp(-0.4214 * math.log(num_parameters) - 0.5535)


def weight_decay(learning_rate: float, *, scaling: DecayScaling = "times_rate") -> float:
    """The number to give an optimizer so that weights shrink by 0.1 of the learning rate.

    The paper's decay is a tenth of the peak rate, and follows the schedule: weights lose 0.1 times
    the current rate of themselves in every step. `torch.optim.AdamW` and transformers' `Adafactor`
    multiply what they are given by the rate (`"times_rate"`), so they take 0.1. A tenth of the rate
    would make the decay vanish there; it is for optimizers that do not multiply (`"alone"`), which
    then must let their decay follow the schedule.

    >>> weight_decay(6e-5)
    0.1
    >>> float(f"{weight_decay(6e-5, scaling='alone'):.3g}")
    6e-06

    Raises:
        ValueError: If the scaling is unknown.

    Source: MM1, arXiv 2403.09611, section 3.3.
    """
    if scaling not in DECAY_SCALINGS:
        known = ", ".join(map(repr, DECAY_SCALINGS))
        raise ValueError(f"scaling is {scaling!r}, but it must be one of: {known}.")
    return DECAY_PER_RATE if scaling == "times_rate" else DECAY_PER_RATE * learning_rate


def share_of_peak(step: int, *, num_steps: int, warmup_steps: int, final_share: float) -> float:
    """Learning rate of an optimizer step, as a share of the peak.

    Rises in a straight line from 0 at step 0 to 1 at `warmup_steps`, then falls as half a cosine to
    `final_share` at `num_steps`. transformers' `lr_scheduler_type="cosine_with_min_lr"` with
    `lr_scheduler_kwargs={"min_lr_rate": final_share}` is the same curve.

    Args:
        step: Optimizer steps taken before; the first step has 0, and changes nothing.
        num_steps: Steps of the whole run.
        warmup_steps: Steps of the rise.
        final_share: Share of the peak at the end.

    Source: MM1, arXiv 2403.09611, section 3.3 (2000 of 200,000 steps, to 0.1; fine-tuning: to 0,
    as reported).
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
