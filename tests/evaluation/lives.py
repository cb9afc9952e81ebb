"""Evaluations in processes of their own; started by `test_lives`.

`python lives.py FOLDER evaluate`: evaluates into FOLDER, slowly enough to be killed.
`python lives.py FOLDER train`: one rank of two trainings under a callback, as its environment says:
in the second, one rank cannot ask an example. What it saw goes to `FOLDER/RANK.json`.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.evaluation import small_tasks as small
from tests.evaluation.small_training import make_trainer

from mm1_hf.evaluation import EvaluationCallback, EvaluationResult, EvaluationSettings, evaluate

NUM_EXAMPLES = 60


def run_evaluation(folder: Path, *, batch_size: int, delay: float = 0) -> EvaluationResult:
    """Ask a model of many tiles, with demonstrations and two seeds."""
    processor = small.processor(tiling="static")
    model = small.model(processor)
    if delay:
        model.lm_head.register_forward_hook(lambda *_: time.sleep(delay))
    return evaluate(
        model,
        processor,
        small.task(),
        small.examples(NUM_EXAMPLES),
        demonstrations=small.examples(20, start=40, split="t"),
        num_shots=2,
        seeds=(0, 1),
        style="continuation",
        batch_size=batch_size,
        output=folder,
        progress=False,
    )


def run_training(folder: Path, *, rank: int, fails: bool) -> dict[str, Any]:
    """Train on this rank of two, and ask the trained model again alone."""
    processor = small.processor()
    trainer = make_trainer(processor, folder, per_device_train_batch_size=1)
    asked = small.examples(7)
    task = small.task(prompt=prompt_that_fails) if fails and rank == 1 else small.task()
    settings = EvaluationSettings(batch_size=2, max_new_tokens=3)
    told = EvaluationCallback(task, asked, every=2, settings=settings).attach(trainer)
    error = None
    try:
        trainer.train()
    except ValueError as found:
        error = str(found)
    alone = evaluate(
        trainer.model, processor, small.task(), asked, max_new_tokens=3, progress=False
    )
    return {
        "error": error,
        "model": type(trainer.model_wrapped).__name__,
        "logs": trainer.state.log_history,
        "together": {step: asdict(one[0]) for step, one in told.results.items()},
        "alone": asdict(alone.per_seed[0]),
    }


def prompt_that_fails(example: Any) -> list[Any]:
    if example.key == "q5":
        raise ValueError("No prompt for q5.")
    return [*example.images, example.question]


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    if sys.argv[2] == "evaluate":
        run_evaluation(target, batch_size=3, delay=0.02)
    else:
        this = int(os.environ["RANK"])
        seen = [run_training(target, rank=this, fails=fails) for fails in (False, True)]
        (target / f"{this}.json").write_text(json.dumps(seen))
        torch.distributed.destroy_process_group()
