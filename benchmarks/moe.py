"""What does a sparse feed-forward block cost beside a dense one of equal active operations?

64 experts, top-2, 2048 tokens, width 512 to 1408, balanced random routing; the dense block is as
wide as two experts. Ours is `sorted_mm`, the peers are transformers' `grouped_mm` (its default) and
`eager`. A step is forward and backward with gradients accumulated into existing buffers, as in all
but the first pass of an accumulated step; `fresh` is one with none.

`forward_vs_dense` and `step_vs_dense` are our time / the dense one's: smaller is better.
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import cpu_seconds, print_result, quick_asked
from torch import nn

from mm1_hf import MM1TextConfig
from mm1_hf.model.moe_mm1 import MM1Experts
from mm1_hf.model.sorted_experts_mm1 import register_sorted_mm

EXPERTS, CHOSEN, TOKENS, WIDTH, INNER = 64, 2, 2048, 512, 1408
PEERS = ("sorted_mm", "grouped_mm", "eager")
# Eager's backward fills a whole gradient for each expert: once is enough.
EAGER_ROUNDS = 1


class Dense(nn.Module):
    """SwiGLU as wide as the experts of one token."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Linear(WIDTH, 2 * CHOSEN * INNER, bias=False)
        self.down_proj = nn.Linear(CHOSEN * INNER, WIDTH, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(N, D)` to `(N, D)`."""
        gate, up = self.gate_up_proj(states).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


def make_experts() -> MM1Experts:
    """Experts with random weights."""
    experts = MM1Experts(
        MM1TextConfig(
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=1,
            num_attention_heads=8,
            num_key_value_heads=8,
            num_experts=EXPERTS,
            num_experts_per_tok=CHOSEN,
            moe_every_n_layers=1,
        )
    )
    for weight in experts.parameters():
        nn.init.normal_(weight, std=0.02)
    return experts


def balanced_routing() -> tuple[torch.Tensor, torch.Tensor]:
    """Two different experts for each token, all equally often, and weights."""
    first = torch.randperm(TOKENS) % EXPERTS
    index = torch.stack([first, (first + 1 + torch.randperm(TOKENS) % (EXPERTS - 1)) % EXPERTS], 1)
    return index, torch.rand(TOKENS, CHOSEN).softmax(-1)


def contestants(
    experts: MM1Experts, dense: Dense, states: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """The blocks by name, after checking that all implementations agree."""
    index, weights = balanced_routing()

    def sparse(implementation: str) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            experts.config._experts_implementation = implementation
            return experts(states, index, weights)

        return run

    found = {name: sparse(name) for name in PEERS}
    with torch.no_grad():
        expected = found["eager"]()
        for run in found.values():
            torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-5)
    return {"dense": lambda: dense(states), **found}


def time_forward(run: Callable[[], torch.Tensor]) -> float:
    with torch.no_grad():
        return cpu_seconds(run)


def measure(*, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of forward and step, by contestant."""
    experts, dense = make_experts(), Dense()
    states = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weights = [*experts.parameters(), *dense.parameters(), states]
    runs = contestants(experts, dense, states)
    kinds: tuple[str, ...] = ("forward", "step", "fresh")
    seconds: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in kinds} for name in runs
    }
    for run in list(runs.values())[:-1]:
        run().sum().backward()
    for number in range(rounds):
        for kind in kinds:
            for name, run in runs.items():
                if name == "eager" and kind != "forward" and number >= EAGER_ROUNDS:
                    continue
                if name == "eager" and kind == "fresh":
                    continue
                if kind == "forward":
                    seconds[name][kind].append(time_forward(run))
                    continue
                for weight in weights:
                    weight.grad = None if kind == "fresh" else weight.grad
                seconds[name][kind].append(cpu_seconds(lambda run=run: run().sum().backward()))
            if kind == "fresh":  # every weight has a gradient again
                for run in list(runs.values())[:2]:
                    run().sum().backward()
    return {
        name: {kind: round(1000 * statistics.median(t), 1) for kind, t in found.items() if t}
        for name, found in seconds.items()
    }


def main() -> None:
    rounds = 3 if quick_asked(__doc__) else 9
    register_sorted_mm()
    milliseconds = measure(rounds=rounds)
    for name, kinds in milliseconds.items():
        print(f"{name:>10}: " + ", ".join(f"{kind} {ms:8.1f} ms" for kind, ms in kinds.items()))
    ours, dense = milliseconds["sorted_mm"], milliseconds["dense"]
    grouped, eager = milliseconds["grouped_mm"], milliseconds["eager"]
    ratios = {
        "forward_vs_dense": round(ours["forward"] / dense["forward"], 2),
        "step_vs_dense": round(ours["step"] / dense["step"], 2),
        "forward_vs_grouped": round(grouped["forward"] / ours["forward"], 2),
        "step_vs_grouped": round(grouped["step"] / ours["step"], 2),
        "fresh_vs_grouped": round(grouped["fresh"] / ours["fresh"], 2),
        "step_vs_eager": round(eager["step"] / ours["step"], 1),
    }
    sizes = {"experts": EXPERTS, "chosen": CHOSEN, "tokens": TOKENS, "width": WIDTH, "inner": INNER}
    figures = {
        "milliseconds": milliseconds,
        "fresh_vs_dense": round(ours["fresh"] / dense["fresh"], 2),
        **sizes,
    }
    print_result("moe", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
