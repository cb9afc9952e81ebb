"""What do importing and loading cost?

CPU seconds of fresh processes, the least of several, in turns: `import mm1_hf` alone; the model
class beyond transformers' `PreTrainedModel`, which it needs; and loading a saved decoder with ours
against the same weights with transformers' Llama.
"""

import subprocess
import sys
import tempfile

from harness import print_result, quick_asked
from transformers import LlamaConfig, LlamaForCausalLM

from mm1_hf import MM1ForCausalLM, MM1TextConfig

TIMED = """
import time
{before}
start = time.process_time()
{timed}
print(time.process_time() - start)
"""
LOAD = "{name}.from_pretrained({folder!r})"


def seconds_of(timed: str, *, before: str = "") -> float:
    """CPU seconds of a statement in a fresh interpreter."""
    code = TIMED.format(before=before, timed=timed)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def save_decoders(folder: str, *, layers: int) -> dict[str, str]:
    """Save the same weights as ours and as Llama; the folder of each."""
    sizes = {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    }
    ours = MM1ForCausalLM(MM1TextConfig(**sizes))
    theirs = LlamaForCausalLM(LlamaConfig(**sizes))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    folders = {"ours": f"{folder}/ours", "transformers": f"{folder}/transformers"}
    ours.save_pretrained(folders["ours"])
    theirs.save_pretrained(folders["transformers"])
    return folders


def measure(folders: dict[str, str], rounds: int) -> dict[str, float]:
    """The least CPU seconds of each question, which take turns."""
    questions = {
        "import": ("import mm1_hf", ""),
        "base_class": ("from transformers import PreTrainedModel", "import torch"),
        "model_class": ("from mm1_hf import MM1ForConditionalGeneration", "import torch"),
        "load_ours": (
            LOAD.format(name="MM1ForCausalLM", folder=folders["ours"]),
            "from mm1_hf import MM1ForCausalLM",
        ),
        "load_transformers": (
            LOAD.format(name="LlamaForCausalLM", folder=folders["transformers"]),
            "from transformers import LlamaForCausalLM",
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(rounds):
        for name, (timed, before) in questions.items():
            seconds[name].append(seconds_of(timed, before=before))
    return {name: min(times) for name, times in seconds.items()}


def main() -> None:
    quick = quick_asked(__doc__, help="fewer processes, a smaller model")
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(save_decoders(folder, layers=2 if quick else 12), 2 if quick else 7)
    ratios = {
        "import_seconds": round(seconds["import"], 3),
        "model_class_extra_seconds": round(seconds["model_class"] - seconds["base_class"], 3),
        "load_vs_transformers": round(seconds["load_transformers"] / seconds["load_ours"], 2),
    }
    figures = {"seconds": {name: round(value, 3) for name, value in seconds.items()}}
    print_result("startup", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
