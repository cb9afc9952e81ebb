"""How much memory and time does it take to upcycle a dense decoder of a billion parameters?

MM1.5-1B's decoder with random weights in bf16 (1.9 GB), 8 experts in every 4th layer (4.1 GB in
shards of at most 1 GB): as few as show the cost of a byte, which more experts do not change, so
that source, result and copy find room on a small disk. Against a plain copy of as many bytes as are
written, and against what one writes by hand: load, repeat, `save_file`.

Memory is taken in a process of its own, as growth above what importing the library takes. Times are
CPU seconds of user and kernel, in turns, as the files lie in memory and a disk's own moods are not
the question. `shard_vs_peak` is the largest file written / that growth.
"""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from harness import MIB, peak_growth, print_result, quick_asked

# isort: split
import torch
from safetensors.torch import load_file, save_file
from transformers import logging

from mm1_hf import MM1ForCausalLM, MM1TextConfig, presets
from mm1_hf.conversion import upcycle_checkpoint
from mm1_hf.conversion.renaming import TensorInfo
from mm1_hf.conversion.writing import Entry, write_checkpoint, write_tensor

NUM_EXPERTS, EVERY = 8, 4
SHARD_BYTES = 10**9
BUFFER_BYTES = 1 << 18


def write_dense(folder: Path, **changes: int) -> int:
    """Write MM1.5-1B's decoder with some fields changed; returns its number of parameters."""
    config: MM1TextConfig = presets.mm1_5_1b(**changes).text_config
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = MM1ForCausalLM(config)

    def write(shape: tuple[int, ...], file: BinaryIO) -> None:
        write_tensor(torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02), file)

    entries = [
        Entry(name, TensorInfo(tuple(one.shape), torch.bfloat16), partial(write, tuple(one.shape)))
        for name, one in model.state_dict().items()
    ]
    config.save_pretrained(folder)
    write_checkpoint(folder, entries, max_shard_bytes=10 * SHARD_BYTES)
    return model.num_parameters()


def upcycle(source: Path, target: Path, *, noise: float = 0.0) -> None:
    """Ours."""
    upcycle_checkpoint(
        source,
        target,
        num_experts=NUM_EXPERTS,
        every=EVERY,
        noise=noise,
        max_shard_bytes=SHARD_BYTES,
    )


def copy_files(source: Path, target: Path) -> None:
    """Copy as many bytes as are written, through a buffer in this process."""
    target.mkdir()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for path in source.glob("*.safetensors"):
        with path.open("rb", buffering=0) as reading:
            with (target / path.name).open("wb", buffering=0) as writing:
                while count := reading.readinto(buffer):
                    writing.write(buffer[:count])


def by_hand(source: Path, target: Path) -> None:
    """What one writes: the tensors of both models in memory."""
    target.mkdir()
    weights = load_file(source / "model.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    for layer in range(EVERY - 1, layers, EVERY):
        mlp = f"model.layers.{layer}.mlp"
        gate, up, down = (
            weights.pop(f"{mlp}.{name}_proj.weight") for name in ("gate", "up", "down")
        )
        both = torch.cat([gate, up])
        weights[f"{mlp}.experts.gate_up_proj"] = both.expand(NUM_EXPERTS, -1, -1).contiguous()
        weights[f"{mlp}.experts.down_proj"] = down.expand(NUM_EXPERTS, -1, -1).contiguous()
        router = torch.empty(NUM_EXPERTS, down.shape[0], dtype=down.dtype).normal_(std=0.02)
        weights[f"{mlp}.gate.weight"] = router
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def memory_of(work: Callable[[Path, Path], object], folder: Path) -> float:
    """MiB by which a process of its own grows, once what happens only once has happened."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, folder))


def _measure(work: Callable[[Path, Path], object], folder: Path) -> float:
    torch.set_num_threads(1)
    work(folder / "small", folder / "warm")
    growth = peak_growth(lambda: work(folder / "dense", folder / "out"))
    shutil.rmtree(folder / "warm")
    shutil.rmtree(folder / "out")
    return round(growth, 1)


def in_turns(
    contestants: dict[str, Callable[[Path], object]], target: Path, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Least CPU seconds and seconds on the clock of each, without removing what was written."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            start = time.process_time(), time.perf_counter()
            work(target)
            seconds[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
            shutil.rmtree(target)
    return {
        kind: {name: round(min(one[place] for one in taken), 2) for name, taken in seconds.items()}
        for place, kind in enumerate(("cpu_seconds", "wall_seconds"))
    }


def main() -> None:
    """Write the dense checkpoint, upcycle it and copy the result in turns, print the ratios."""
    quick = quick_asked(__doc__, help="a decoder of 0.4 billion parameters, fewer rounds")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="mm1-upcycle-") as name:
        folder = Path(name)
        parameters = write_dense(folder / "dense", num_hidden_layers=4 if quick else 16)
        write_dense(folder / "small", num_hidden_layers=4, hidden_size=256, vocab_size=1024)
        upcycle(folder / "dense", folder / "sparse")  # warms up, and is what is copied
        files = [path.stat().st_size for path in (folder / "sparse").glob("*.safetensors")]
        target = folder / "out"
        taken = in_turns(
            {
                "upcycle": partial(upcycle, folder / "dense"),
                "copy": partial(copy_files, folder / "sparse"),
            },
            target,
            rounds=2 if quick else 5,
        )
        with_noise = partial(upcycle, folder / "dense", noise=0.01)
        noisy = in_turns({"noise": with_noise}, target, rounds=1)
        memory = {
            name: memory_of(work, folder)
            for name, work in {
                "upcycle": upcycle,
                "noise": partial(upcycle, noise=0.01),
                "by_hand": by_hand,
            }.items()
        }
    largest = max(files) / MIB
    print_result(
        "upcycle",
        ratios={
            "vs_copy": round(taken["cpu_seconds"]["copy"] / taken["cpu_seconds"]["upcycle"], 3),
            "shard_vs_peak": round(largest / max(memory["upcycle"], 1), 1),
            "shard_vs_peak_with_noise": round(largest / max(memory["noise"], 1), 1),
            "memory_vs_by_hand": round(memory["by_hand"] / max(memory["upcycle"], 1), 1),
        },
        figures={
            "parameters": parameters,
            "experts": NUM_EXPERTS,
            "every": EVERY,
            **{kind: {**values, **noisy[kind]} for kind, values in taken.items()},
            "peak_growth_mib": memory,
            "largest_shard_mib": round(largest, 1),
            "written_gb": round(sum(files) / 1e9, 2),
        },
        packages=("torch", "transformers", "safetensors"),
    )


if __name__ == "__main__":
    main()
