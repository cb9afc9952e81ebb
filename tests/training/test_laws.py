"""The paper's rules, and what transformers and PyTorch make of the numbers they are given."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments, get_scheduler

from mm1_hf.training import laws

STEPS, WARMUP, FINAL = 200, 20, 0.1
PUBLISHED = {3_000_000_000: 6e-5, 7_000_000_000: 4e-5, 30_000_000_000: 2e-5}


def transformers_rates(*, peak: float = 1.0) -> list[float]:
    """What the scheduler that a recipe names gives at every step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    scheduler = get_scheduler(
        "cosine_with_min_lr",
        optimizer,
        num_warmup_steps=WARMUP,
        num_training_steps=STEPS,
        scheduler_specific_kwargs={"min_lr_rate": FINAL},
    )
    rates = []
    for _ in range(STEPS + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_law_gives_the_rates_that_mm1_used_to_one_digit(size):
    assert float(f"{laws.learning_rate(size):.0e}") == PUBLISHED[size]


@pytest.mark.parametrize("size, rate", [(9_000_000, 6.75e-4), (302_000_000, 1.54e-4)])
def test_the_law_at_the_sizes_it_was_fitted_to(size, rate):
    assert laws.learning_rate(size) == pytest.approx(rate, rel=5e-3)


@given(st.integers(1, 10**12), st.floats(1.01, 100))
def test_a_larger_model_learns_slower_by_a_power(size, factor):
    larger = math.ceil(size * factor)
    expected = (larger / size) ** -0.4214
    assert laws.learning_rate(larger) / laws.learning_rate(size) == pytest.approx(expected)


def test_no_parameters_is_an_error():
    with pytest.raises(ValueError, match="without embeddings"):
        laws.learning_rate(0)


def test_the_schedule_is_that_of_transformers_at_every_step():
    ours = [
        laws.share_of_peak(step, num_steps=STEPS, warmup_steps=WARMUP, final_share=FINAL)
        for step in range(STEPS + 1)
    ]
    assert ours == pytest.approx(transformers_rates(), rel=1e-12)


@pytest.mark.parametrize(
    "step, share",
    [(0, 0.0), (WARMUP // 2, 0.5), (WARMUP, 1.0), ((STEPS + WARMUP) // 2, 0.55), (STEPS, FINAL)],
)
def test_the_schedule_at_its_corners(step, share):
    found = laws.share_of_peak(step, num_steps=STEPS, warmup_steps=WARMUP, final_share=FINAL)
    assert found == pytest.approx(share)
    assert transformers_rates(peak=3e-4)[step] == pytest.approx(3e-4 * share)


def test_without_warm_up_the_first_step_has_the_peak():
    assert laws.share_of_peak(0, num_steps=10, warmup_steps=0, final_share=0.0) == 1.0


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_weights_shrink_by_a_tenth_of_the_current_rate(share, tmp_path):
    """With gradients of zero only the decay is left: w <- w (1 - s eta 0.1)."""
    rate = 1e-2
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=rate, weight_decay=laws.weight_decay(rate))
    optimizer.param_groups[0]["lr"] = share * rate
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert parameter.tolist() == pytest.approx([1 - share * 0.1 * rate] * 4, rel=1e-12)


def test_an_optimizer_that_does_not_multiply_gets_a_tenth_of_the_rate():
    assert laws.weight_decay(6e-5, scaling="alone") == pytest.approx(6e-6)
    with pytest.raises(ValueError, match="times_rate"):
        laws.weight_decay(6e-5, scaling="coupled")


def test_a_shorter_warm_up_is_counted_in_steps_by_training_arguments(tmp_path):
    arguments = TrainingArguments(str(tmp_path), warmup_steps=WARMUP, use_cpu=True)
    assert arguments.get_warmup_steps(STEPS) == WARMUP
