"""How much longer than reading and writing a file does it take to convert the checkpoint in it?

A Llama of 700 MB and an open_clip tower of 700 MB, whose fused projections are taken apart, against
a plain copy of the file through a buffer, and against what one writes by hand: `load_file`, rename,
`save_file`. All take turns; times are CPU seconds of user and kernel, as the file lies in memory
and a disk's own moods are not the question. Memory is the growth of the process above its level.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import peak_growth, print_result, quick_asked

# isort: split
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, logging

from mm1_hf import MM1TextConfig
from mm1_hf.conversion import convert

BUFFER_BYTES = 1 << 18


def write_llama(folder: Path, *, num_layers: int) -> None:
    """A decoder in fp32: 62 MB a layer, and 66 MB of vocabulary."""
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_open_clip(folder: Path, *, num_layers: int) -> None:
    """A vision tower in fp32: 50 MB a layer, with queries, keys and values in one matrix."""
    width, folder_config = 1024, {"layers": num_layers, "width": 1024, "patch_size": 14}
    tensors = {
        "class_embedding": (width,),
        "positional_embedding": (257, width),
        "proj": (width, 768),
        "conv1.weight": (width, 3, 14, 14),
    }
    norms = ["ln_pre", "ln_post"]
    for layer in range(num_layers):
        block = f"transformer.resblocks.{layer}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            tensors[f"{block}.{name}weight"] = (rows, columns)
            tensors[f"{block}.{name}bias"] = (rows,)
    tensors |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    folder.mkdir()
    made = {f"visual.{name}": torch.randn(shape) for name, shape in tensors.items()}
    save_file(made, folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"vision_cfg": folder_config}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def read_and_write(source: Path, target: Path) -> None:
    """Copy the file through a buffer in this process."""
    target.mkdir()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with (
        source.open("rb", buffering=0) as reading,
        (target / source.name).open("wb", buffering=0) as writing,
    ):
        while count := reading.readinto(buffer):
            writing.write(buffer[:count])


def by_hand(source: Path, target: Path) -> None:
    """What one writes for a Llama: everything in memory at once, the names as they are."""
    config = AutoConfig.from_pretrained(source.parent)
    MM1TextConfig(vocab_size=config.vocab_size).save_pretrained(target)
    save_file(load_file(source), target / source.name)


def in_turns(
    contestants: dict[str, Callable[[Path], object]], target: Path, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Least CPU seconds and seconds on the clock of each, without removing what was written."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            start = time.process_time(), time.perf_counter()
            work(target)
            took = time.process_time() - start[0], time.perf_counter() - start[1]
            seconds[name].append(took)
            shutil.rmtree(target)
    # The first round warms up.
    least = {
        name: [min(column) for column in zip(*took[1:], strict=True)]
        for name, took in seconds.items()
    }
    return {
        "cpu": {name: values[0] for name, values in least.items()},
        "wall": {name: values[1] for name, values in least.items()},
    }


def memory_of(work: Callable[[Path], object], target: Path) -> float:
    """MiB by which the process grows."""
    growth = peak_growth(lambda: work(target))
    shutil.rmtree(target)
    return round(growth, 1)


def main() -> None:
    """Write the checkpoints, convert and copy them in turns, print the ratios."""
    quick = quick_asked(__doc__, help="fewer rounds, and checkpoints of 240 MB")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rounds = 4 if quick else 12
    with tempfile.TemporaryDirectory(prefix="mm1-convert-") as name:
        folder = Path(name)
        write_llama(folder / "llama", num_layers=3 if quick else 10)
        write_open_clip(folder / "open_clip", num_layers=4 if quick else 13)
        llama = folder / "llama" / "model.safetensors"
        tower = folder / "open_clip" / "open_clip_model.safetensors"
        target = folder / "out"
        contestants: dict[str, Callable[[Path], object]] = {
            "llama": partial(convert, llama.parent),
            "llama_file": partial(read_and_write, llama),
            "llama_by_hand": partial(by_hand, llama),
            "open_clip": partial(convert, tower.parent),
            "open_clip_file": partial(read_and_write, tower),
        }
        taken = in_turns(contestants, target, rounds=rounds)
        seconds = taken["cpu"]
        memory = {
            name: memory_of(contestants[name], target)
            for name in ("llama", "llama_by_hand", "open_clip")
        }
        figures = {
            "cpu_seconds": {name: round(value, 3) for name, value in taken["cpu"].items()},
            "wall_seconds": {name: round(value, 3) for name, value in taken["wall"].items()},
            "peak_growth_mib": memory,
            "file_mb": {
                "llama": round(llama.stat().st_size / 1e6),
                "open_clip": round(tower.stat().st_size / 1e6),
            },
        }
    print_result(
        "convert",
        ratios={
            "llama_vs_file": round(seconds["llama_file"] / seconds["llama"], 3),
            "open_clip_vs_file": round(seconds["open_clip_file"] / seconds["open_clip"], 3),
            "llama_vs_by_hand": round(seconds["llama_by_hand"] / seconds["llama"], 2),
            "memory_vs_by_hand": round(memory["llama_by_hand"] / max(memory["llama"], 1), 1),
        },
        figures=figures,
        packages=("torch", "transformers", "safetensors"),
    )


if __name__ == "__main__":
    main()
