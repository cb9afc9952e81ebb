"""What every benchmark shares: how time and memory are taken, and the last line it prints.

Times are CPU seconds of this process on one thread. All contestants take turns in every round, so
that whatever else the machine does disturbs them alike. A ratio says how many times better than the
peer ours is: larger is better.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch

MIB = 2**20


def quick_asked(description: str | None, *, help: str = "fewer rounds") -> bool:
    """Parse the one flag of all benchmarks, and compute on one thread from here on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=help)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return parser.parse_args().quick


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process while `work` runs."""
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(
    contestants: dict[str, Callable[[], object]],
    *,
    rounds: int,
    summary: Callable[[Iterable[float]], float] = statistics.median,
) -> dict[str, float]:
    """CPU seconds of each contestant over rounds in which all take turns, after one warm-up."""
    for work in contestants.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            seconds[name].append(cpu_seconds(work))
    return {name: summary(times) for name, times in seconds.items()}


def peak_growth(
    work: Callable[[], object], *, kept: Literal["handed_back", "reused"] = "handed_back"
) -> float:
    """MiB by which resident memory rises above its level before `work`, at its highest.

    Sampled every half millisecond. Run `work` once before, for what happens only once.

    Args:
        work: What needs memory.
        kept: What becomes of memory that the allocator keeps from earlier work. Handed back first,
            it cannot hide growth; reused, as from step to step of a training, it hides what many
            small tensors need, and large ones show.
    """
    if kept == "handed_back":
        _hand_back_memory()
    before = highest = _resident_bytes()
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.0005):
            highest = max(highest, _resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        work()
    finally:
        done.set()
        sampler.join()
    return (max(highest, _resident_bytes()) - before) / MIB


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _hand_back_memory() -> None:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def gemm_rate(*, size: int = 2048, rounds: int = 5) -> float:
    """Floating-point operations per CPU second of a large fp32 matrix product, at its best."""
    left, right, out = (torch.randn(size, size) for _ in range(3))
    torch.mm(left, right, out=out)
    seconds = min(cpu_seconds(lambda: torch.mm(left, right, out=out)) for _ in range(rounds))
    return 2 * size**3 / seconds


def print_result(
    question: str,
    *,
    ratios: dict[str, float],
    figures: dict,
    packages: Sequence[str] = ("torch", "transformers"),
) -> None:
    """Print the one line that other programs read, as the last."""
    result = {
        "question": question,
        "ratios": ratios,
        "figures": figures,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }
    print(json.dumps(result))
