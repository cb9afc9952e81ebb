"""lmms-eval itself runs tasks on an MM1, found through the entry point, in batches and processes.

For an environment with the extra `lmms`: `make harnesses`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make harnesses)")

from datasets import Dataset, Features, Image, List, Value

from mm1_hf.evaluation.lmms_eval_adapter import MM1Chat, MM1Simple

from .small_checkpoints import COLOURS, make_config, picture, request, save_checkpoint
from .tasks.lmms_eval import colours

pytestmark = [
    pytest.mark.slow,
    # lmms-eval and what it imports.
    pytest.mark.filterwarnings("default"),
]
TASKS = Path(__file__).parent / "tasks" / "lmms_eval"
LENGTH = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a checkpoint and the rows that the tasks read from the working directory."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    save_checkpoint(folder / "model", config=make_config(), tiling="static")
    names = list(COLOURS)
    rows = [
        {
            "images": [picture(name, width=20 + 10 * number) for name in names[: 1 + number % 3]],
            "question": f"What is on the {'left' if number % 2 else 'right'}?",
            "answer": names[number % 3],
        }
        for number in range(7)
    ]
    features = Features(
        {"images": List(Image()), "question": Value("string"), "answer": Value("string")}
    )
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "pictures.parquet"))
    return folder


def documents(place: Path) -> Any:
    return Dataset.from_parquet(str(place / "pictures.parquet"), cache_dir=str(place / "cache"))


def run_lmms_eval(
    place: Path, output: Path, *tasks: str, options: tuple[str, ...] = (), processes: int = 1
) -> dict[str, Any]:
    """Run the command and return, by task, the figures and the samples in order."""
    launch = ["-m", "lmms_eval"]
    if processes > 1:
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", "0", "-m", "lmms_eval"]
    command = [sys.executable, *launch, "--model", "mm1", "--tasks", ",".join(tasks)]
    command += ["--model_args", "pretrained=model,dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(TASKS), "--log_samples", "--output_path", str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], cwd=place, env=environment, capture_output=True, text=True
    )
    # After an error lmms-eval ends with 0 all the same.
    written = list(output.rglob("*_results.json"))
    assert done.returncode == 0 and len(written) == 1, (done.stdout + done.stderr)[-4000:]
    (results,) = written
    found: dict[str, Any] = {}
    for task in tasks:
        (samples,) = output.rglob(f"*_samples_{task}.jsonl")
        lines = samples.read_text(encoding="utf-8").splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["doc_id"])
        figures = json.loads(results.read_text(encoding="utf-8"))["results"][task]
        found[task] = {"figures": figures, "samples": rows}
    return found


def said(found: dict[str, Any], task: str) -> list[str]:
    answers = [row["filtered_resps"] for row in found[task]["samples"]]
    return [answer if isinstance(answer, str) else answer[0] for answer in answers]


CHAT_TASKS = ("mm1_colours_vqa", "mm1_colours_interleaved")


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (4, 1), (2, 2)])
def test_tasks_get_the_models_own_answers(place, tmp_path, batch_size, processes):
    options = ("--batch_size", str(batch_size))
    found = run_lmms_eval(place, tmp_path, *CHAT_TASKS, options=options, processes=processes)
    rows = documents(place)
    model = MM1Chat(str(place / "model"), device="cpu", dtype="float32")
    model.task_dict = {"task": {"test": rows}}

    def messages_of_vqa(row: dict) -> list[dict]:
        content = [{"type": "image", "url": image} for image in colours.doc_to_visual(row)]
        content.append({"type": "text", "text": colours.doc_to_text(row)})
        return [{"role": "user", "content": content}]

    makers = (messages_of_vqa, colours.doc_to_messages)
    for task, messages, until in zip(CHAT_TASKS, makers, ([], ["\n"]), strict=True):
        settings = {"max_new_tokens": LENGTH, "until": until}
        expected = model.generate_until(
            [request("", messages, settings, n, "task", "test") for n in range(len(rows))]
        )
        assert said(found, task) == expected
        exact = sum(a.strip() == row["answer"] for a, row in zip(expected, rows, strict=True))
        assert found[task]["figures"]["exact,none"] == pytest.approx(exact / len(rows))


def test_choices_are_compared_by_their_likelihoods(place, tmp_path):
    task = "mm1_colours_choice"
    options = ("--batch_size", "4", "--force_simple")
    found = run_lmms_eval(place, tmp_path, task, options=options)
    rows = documents(place)
    model = MM1Simple(str(place / "model"), device="cpu", dtype="float32")
    model.task_dict = {"task": {"test": rows}}
    right = 0
    for number, row in enumerate(rows):
        question = colours.doc_to_text(row)
        losses = model.likelihoods(
            [
                request(question, f" {choice}", colours.doc_to_visual, number, "task", "test")
                for choice in colours.doc_to_choice(row)
            ]
        )
        right += int(torch.tensor([loss for loss, _ in losses]).argmin()) == (
            colours.doc_to_choice_index(row)
        )
    assert found[task]["figures"]["acc,none"] == pytest.approx(right / len(rows))
