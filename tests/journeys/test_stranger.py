"""A stranger's path: compose, tune an adapter on own JSON, evaluate, publish, load, serve, ask.

Each step uses what the step before left on the disk, and nothing of the tests' own.
"""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from mm1_hf import MM1ConnectorConfig, MM1ForConditionalGeneration, MM1Processor
from mm1_hf.cli import main
from mm1_hf.data import MemorySource, Mixture, MM1Collator, PackedDataset, from_llava
from mm1_hf.training import adapter_config

from ..serving.http_server import chat, serving

pytestmark = [
    pytest.mark.slow,
    # Trainer asks the PEFT model by the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
QUESTION = "Which color is it?"
STEPS = 40
# What another machine sees: transformers and the folder, no mm1_hf.
CLEAN_PROCESS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mm1_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from transformers import pipeline
ask = pipeline("image-text-to-text", model=sys.argv[1], trust_remote_code=True)
part = {"type": "image", "path": sys.argv[2]}
messages = [{"role": "user", "content": [part, {"type": "text", "text": sys.argv[3]}]}]
greedy = {"max_new_tokens": 8, "do_sample": False}
said = ask(messages, generate_kwargs=greedy, return_full_text=False)
print("ANSWER", said[0]["generated_text"].strip())
"""


def test_from_parts_to_an_answer_over_http(tmp_path, make_tokenizer, capfd):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    rows = write_own_data(tmp_path)
    model, processor = compose(tmp_path, make_tokenizer())
    tuned = tune_adapter(tmp_path, model, processor, rows)
    tuned.save_pretrained(tmp_path / "tuned")
    processor.save_pretrained(tmp_path / "tuned")

    benchmark = ["--task", "vizwiz", "--data", str(tmp_path / "benchmark"), "--no-progress"]
    results = tmp_path / "results"
    asked = ["evaluate", "--model", str(tmp_path / "tuned"), *benchmark, "--output", str(results)]
    assert main(asked) == 0
    assert "1.0000" in capfd.readouterr().out, "the adapter has not learned two colors"

    report = next(results.rglob("results.json"))
    published = tmp_path / "published"
    publishing = ["publish", str(tmp_path / "tuned"), str(published), "--results", str(report)]
    assert main(publishing) == 0
    assert "vizwiz" in (published / "README.md").read_text().lower()

    picture = tmp_path / "benchmark" / "val" / "0.png"
    process = [sys.executable, "-c", CLEAN_PROCESS, str(published), str(picture), QUESTION]
    clean = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path)
    assert "ANSWER red" in clean.stdout, clean.stdout[-500:] + clean.stderr[-3000:]

    content = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}},
        {"type": "text", "text": QUESTION},
    ]
    served = ["serve", str(published), "--device", "cpu"]
    with serving(served, health="/health", log=tmp_path / "log") as server:
        status, text = server.post("/v1/chat/completions", chat(str(published), content))
        assert status == 200, text
        assert json.loads(text)["choices"][0]["message"]["content"].strip() == "red"
        assert server.stop() == 0


def write_own_data(folder: Path) -> list[dict]:
    """Rows of LLaVA's layout to learn from, and a benchmark in VizWiz' layout with new pictures."""
    (folder / "benchmark" / "val").mkdir(parents=True)
    rows, asked = [], []
    for number in range(16):
        name, color = list(COLORS.items())[number % 2]
        paint(color, number).save(folder / f"{number}.png")
        turns = [("human", f"<image>\n{QUESTION}"), ("gpt", name)]
        said = [{"from": who, "value": what} for who, what in turns]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": said})
        paint(color, 40 + number).save(folder / "benchmark" / "val" / f"{number}.png")
        answers = [{"answer": name, "answer_confidence": "yes"}] * 10
        asked.append({"image": f"{number}.png", "question": QUESTION, "answers": answers})
    (folder / "own.json").write_text(json.dumps(rows))
    (folder / "benchmark" / "val.json").write_text(json.dumps(asked[:8]))
    return json.loads((folder / "own.json").read_text())


def compose(folder: Path, tokenizer) -> tuple[MM1ForConditionalGeneration, MM1Processor]:
    """An MM1 of a CLIP tower and a Llama that lie on the disk."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = CLIPVisionConfig(**sizes, num_attention_heads=4, image_size=28, patch_size=7)
    CLIPVisionModel(vision).save_pretrained(folder / "clip")
    text = LlamaConfig(
        **sizes,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(text).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    model = MM1ForConditionalGeneration.from_parts(
        vision=str(folder / "clip"),
        text=str(folder / "llama"),
        connector=MM1ConnectorConfig(
            num_image_tokens=4, hidden_size=16, depth=1, initializer_range=0.1
        ),
        tokenizer=tokenizer,
    )
    return model, MM1Processor.from_parts(tokenizer=tokenizer, config=model.config)


def tune_adapter(folder: Path, model, processor, rows: list[dict]):
    """LoRA on the decoder and the whole connector, merged."""
    documents = [from_llava(row, source="own", images=folder) for row in rows]
    dataset = PackedDataset(
        Mixture({MemorySource(documents, name="own"): 1}, unit="document", seed=0),
        processor,
        num_sequences=4 * STEPS,
        cache_folder=folder / "cache",
        sequence_length=128,
    )
    adapted = get_peft_model(
        model, adapter_config(model, preset="decoder+connector", r=8, embeddings="trained")
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(adapted, arguments, train_dataset=dataset, data_collator=MM1Collator(processor)).train()
    return adapted.merge_and_unload()


def paint(color: tuple[int, int, int], seed: int) -> Image.Image:
    return Image.new("RGB", (30 + seed, 40), color)


def data_url(picture: Path) -> str:
    with Image.open(picture) as image:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
