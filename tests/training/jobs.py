"""Starts `lives.py` and reads what its jobs saw."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import small_corpus as corpus


class Lived(NamedTuple):
    """How a life ended on each rank, what each rank saw, and the gradients of the first step."""

    codes: list[int]
    seen: list[dict[str, Any]]
    gradients: dict[str, torch.Tensor]

    @property
    def losses(self) -> dict[int, float]:
        return {int(step): logs["loss"] for step, logs in self.seen[0]["logs"].items()}


def live(folder: Path, *lives: dict[str, Any]) -> list[Lived]:
    """Live lives one after the other; see `lives.Life`."""
    if not (folder / "corpus").exists():
        corpus.write_corpus(folder / "corpus")
    script = Path(__file__).with_name("lives.py")
    with (folder / "output").open("w") as output:
        done = subprocess.run(
            [sys.executable, str(script), str(folder), json.dumps(lives)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
    assert done.returncode == 0, (folder / "output").read_text()[-4000:]
    ends = json.loads((folder / "ends.json").read_text())
    return [
        _read(folder / life["run"], number, codes)
        for number, (life, codes) in enumerate(zip(lives, ends, strict=True))
    ]


def _read(folder: Path, number: int, codes: list[int]) -> Lived:
    paths = [folder / f"life-{number}-{rank}.json" for rank in range(len(codes))]
    gradients = folder / f"life-{number}-0.grads"
    return Lived(
        codes,
        [json.loads(path.read_text()) for path in paths if path.exists()],
        torch.load(gradients) if gradients.exists() else {},
    )
