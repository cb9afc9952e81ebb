"""lm-evaluation-harness on an MM1: text as on the decoder alone, pictures as `generate` sees them.

For an environment with the extra `eval`: `make harnesses`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (make harnesses)")

from datasets import Dataset, Features, Image, List, Value
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mm1_hf import MM1ForConditionalGeneration, MM1Processor
from mm1_hf.evaluation.language import (
    TEXT_CORE,
    language_part,
    run_lm_eval,
    save_language_part,
)

from ...model import tiny
from .small_checkpoints import COLOURS, VOCABULARY, make_config, picture, save_checkpoint

pytestmark = [
    pytest.mark.slow,
    # The harness and what it imports.
    pytest.mark.filterwarnings("default"),
]
TASKS = Path(__file__).parent / "tasks" / "lm_eval"
TEXT_TASKS = ("mm1_colours_choice", "mm1_colours_words")


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch):
    """The tasks read these two files from the working directory."""
    monkeypatch.chdir(tmp_path)
    names = list(COLOURS)
    questions = [
        {"question": f"What is {number} in the picture?", "choices": names, "answer": number % 3}
        for number in range(9)
    ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    Path("questions.jsonl").write_text(lines, encoding="utf-8")
    pictures = [
        {
            "images": [picture(name, width=20 + 10 * number) for name in names[: 1 + number % 2]],
            "question": f"What is on the {'left' if number % 2 else 'right'}?",
            "answer": names[number % 3],
        }
        for number in range(6)
    ]
    features = Features(
        {"images": List(Image()), "question": Value("string"), "answer": Value("string")}
    )
    Dataset.from_list(pictures, features=features).to_parquet("pictures.parquet")
    return pictures


def answers(results: dict, task: str) -> list:
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


def flat(likelihoods: list) -> torch.Tensor:
    return torch.tensor([[float(value) for value, _ in document] for document in likelihoods])


def test_text_ability_is_that_of_an_equal_llama(tmp_path):
    config = make_config()
    model = save_checkpoint(tmp_path / "model", config=config)
    own = config.text_config
    same = {"vocab_size": VOCABULARY, "rms_norm_eps": own.rms_norm_eps}
    same["rope_parameters"] = own.rope_parameters
    llama = LlamaForCausalLM(LlamaConfig(**{**tiny.TEXT_SIZES, **same}))
    llama.load_state_dict(language_part(model).state_dict())
    tokenizer = MM1Processor.from_pretrained(tmp_path / "model").tokenizer
    llama.generation_config = model.generation_config
    expected = simple_evaluate(
        model=HFLM(llama.eval(), tokenizer=tokenizer, backend="causal", batch_size=4),
        tasks=list(TEXT_TASKS),
        task_manager=TaskManager(include_path=str(TASKS)),
    )
    for batch_size in (1, 4):
        found = run_lm_eval(
            tmp_path / "model",
            TEXT_TASKS,
            include_path=TASKS,
            batch_size=batch_size,
            device="cpu",
            output=tmp_path / "results.json",
        )
        first = TEXT_TASKS[0]
        assert torch.allclose(
            flat(answers(found, first)), flat(answers(expected, first)), atol=1e-4
        )
        assert answers(found, TEXT_TASKS[1]) == answers(expected, TEXT_TASKS[1])
        assert found["results"][first]["acc,none"] == expected["results"][first]["acc,none"]
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["results"][first]["sample_len"] == 9


def test_the_saved_part_is_a_model_for_the_harness_itself(tmp_path):
    save_checkpoint(tmp_path / "model", config=make_config())
    folder = save_language_part(tmp_path / "model", tmp_path / "language")
    ours = run_lm_eval(tmp_path / "model", TEXT_TASKS[:1], include_path=TASKS, device="cpu")
    command = [sys.executable, "-m", "mm1_hf.evaluation.language", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu"]
    command += ["--tasks", TEXT_TASKS[0], "--include_path", str(TASKS), "--output_path", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = Path("out").rglob("results_*.json")
    theirs = json.loads(file.read_text(encoding="utf-8"))["results"][TEXT_TASKS[0]]
    assert theirs["acc,none"] == ours["results"][TEXT_TASKS[0]]["acc,none"]
    assert theirs["acc_norm,none"] == ours["results"][TEXT_TASKS[0]]["acc_norm,none"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_about_pictures_are_those_of_the_models_own_generate(tmp_path, rows, batch_size):
    model = save_checkpoint(tmp_path / "model", config=make_config(), tiling="static")
    processor = MM1Processor.from_pretrained(tmp_path / "model")
    # The harness asks for no such thing, and an untrained model may write a placeholder.
    model.generation_config.suppress_tokens = processor.image_token_ids
    model.generation_config.save_pretrained(tmp_path / "model")
    found = run_lm_eval(
        tmp_path / "model",
        ["mm1_colours_pictures"],
        ability="images",
        include_path=TASKS,
        batch_size=batch_size,
        device="cpu",
    )
    assert answers(found, "mm1_colours_pictures") == [
        [own_answer(model, processor, row)] for row in rows
    ]


def own_answer(model: MM1ForConditionalGeneration, processor: MM1Processor, row: dict) -> str:
    text = "<image>" * len(row["images"]) + f" Question: {row['question']} Short answer:"
    inputs = processor(text=text, images=row["images"], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.decode(new, skip_special_tokens=True).split("\n")[0]


def test_text_core_exists_in_the_harness():
    known = TaskManager()
    assert not set(TEXT_CORE) - set(known.all_tasks)
