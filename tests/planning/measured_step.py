"""A training step, and what it takes of memory: run as a script, so that nothing else is there.

    python measured_step.py NAME

prints, as JSON, what the allocator handed out at most during a step and what the process grew by,
each beside the estimate.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.model.loss_mm1 import _chunk_rows
from mm1_hf.planning import training_memory
from mm1_hf.planning.parameters import part_modules

SIDE = 112


def config(*, vision=(256, 4), text=(384, 6), vocabulary=8000) -> MM1Config:
    return MM1Config(
        vision_config=MM1VisionConfig(
            hidden_size=vision[0],
            intermediate_size=4 * vision[0],
            num_hidden_layers=vision[1],
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=14,
        ),
        connector_config=MM1ConnectorConfig(hidden_size=128, depth=1, num_image_tokens=16),
        text_config=MM1TextConfig(
            vocab_size=vocabulary,
            hidden_size=text[0],
            intermediate_size=1024,
            num_hidden_layers=text[1],
            num_attention_heads=6,
            num_key_value_heads=2,
            pad_token_id=0,
        ),
        image_token_id=vocabulary - 1,
    )


# Activations, parameters, recomputed layers, held gradients: each decides one of the peaks.
CASES: dict[str, dict[str, Any]] = {
    "activations": {"config": config(), "tiles": 12},
    "parameters": {"config": config(text=(768, 4), vocabulary=16_000), "tiles": 2},
    "recomputed": {"config": config(), "tiles": 32, "sequences": 4, "recompute": "layers"},
    "accumulated": {"config": config(), "tiles": 12, "accumulation": 2},
    "frozen": {"config": config(vision=(384, 8), text=(384, 2)), "frozen": ["language_model"]},
    "adafactor": {"config": config(text=(768, 4)), "tiles": 2, "optimizer": "adafactor"},
}


class Step:
    """One optimizer step of a case; `estimate` is what the planner says of it."""

    def __init__(
        self,
        *,
        config: MM1Config,
        tiles: int = 8,
        sequences: int = 2,
        length: int = 512,
        frozen: tuple[str, ...] = (),
        accumulation: int = 1,
        recompute: Any = "nothing",
        optimizer: Any = "adamw",
    ):
        self.accumulation = accumulation
        self.model = MM1ForConditionalGeneration(config).train()
        for part in frozen:
            part_modules(self.model)[part].requires_grad_(False)
        if recompute == "layers":
            newer = getattr(self.model, "activation_checkpointing_enable", None)
            (newer or self.model.gradient_checkpointing_enable)()
        self.ids = torch.randint(3, config.text_config.vocab_size - 2, (sequences, length))
        self.ids[:, : tiles // sequences * 16] = config.image_token_id
        self.labels = self.ids.masked_fill(self.ids == config.image_token_id, -100)
        self.pixels = torch.randn(tiles, 3, SIDE, SIDE)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        kind = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}[optimizer]
        self.optimizer = kind(trained, lr=1e-4, foreach=False)
        self.estimate = training_memory(
            config,
            num_tiles=tiles,
            num_sequences=sequences,
            sequence_length=length,
            precision="fp32",
            optimizer=optimizer,
            frozen=frozen,
            accumulation=accumulation,
            recompute=recompute,
            logit_rows=_chunk_rows(torch.device("cpu")),
        )

    def run(self) -> None:
        for _ in range(self.accumulation):
            self.model(
                input_ids=self.ids, pixel_values=self.pixels, labels=self.labels
            ).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def allocated_peak(step: Step) -> int:
    """The most that the allocator handed out at once during a step, on top of what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def resident(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Libraries that the first step loads are no part of what a step needs.
    Step(config=config(vision=(16, 1), text=(24, 1), vocabulary=99), tiles=2, length=64).run()
    step = Step(**CASES[sys.argv[1]])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark
    before = resident("VmRSS")
    step.run()
    step.run()
    growth = resident("VmHWM") - before
    estimate = step.estimate
    there = estimate.weights + estimate.optimizer_states
    figures = {
        "allocated": [allocated_peak(step), estimate.peak - there],
        "resident": [growth, estimate.peak - estimate.weights],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
