"""The benchmarks that can be evaluated, by name."""

import difflib

from mm1_hf.evaluation.contract import Task
from mm1_hf.evaluation.tasks.captioning import COCO, NOCAPS, TEXTCAPS
from mm1_hf.evaluation.tasks.documents import CHARTQA, DOCVQA, INFOVQA
from mm1_hf.evaluation.tasks.hallucination import MME, POPE
from mm1_hf.evaluation.tasks.mathematics import MATHVISTA
from mm1_hf.evaluation.tasks.mmmu import MMMU
from mm1_hf.evaluation.tasks.multiple_choice import AI2D, MMBENCH, SCIENCEQA, SEED
from mm1_hf.evaluation.tasks.vqa import GQA, OKVQA, TEXTVQA, VIZWIZ, VQAV2

__all__ = ["TASKS", "get_task"]

TASKS: dict[str, Task] = {
    "coco": COCO,
    "nocaps": NOCAPS,
    "textcaps": TEXTCAPS,
    "vqav2": VQAV2,
    "textvqa": TEXTVQA,
    "vizwiz": VIZWIZ,
    "okvqa": OKVQA,
    "gqa": GQA,
    "scienceqa": SCIENCEQA,
    "mmbench": MMBENCH,
    "mmmu": MMMU,
    "ai2d": AI2D,
    "seed": SEED,
    "mathvista": MATHVISTA,
    "pope": POPE,
    "mme": MME,
    "chartqa": CHARTQA,
    "docvqa": DOCVQA,
    "infovqa": INFOVQA,
}


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: If there is none; names the nearest and all others.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"There is no task {name!r}.{hint} Known tasks: {', '.join(TASKS)}. A benchmark of your "
        "own is a Task that you pass to evaluate() from Python."
    )
