"""Greedy tokens of vLLM are those of `generate`: run where vLLM is installed, by `make serving`."""

import json
import subprocess
import sys

import pytest
import torch

from mm1_hf import MM1ForConditionalGeneration, MM1Processor

from .conftest import KINDS, child_environment, data_url, noise, save_checkpoint
from .http_server import chat, serving

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.slow,
    # vLLM and what it imports warn on their own account.
    pytest.mark.filterwarnings("ignore"),
]
LENGTH = 12


# In a process of its own: vLLM exchanges layers of our classes where it runs.
PROGRAM = """
import json, sys
from PIL import Image
from vllm import LLM, SamplingParams

folder, length = sys.argv[1], int(sys.argv[2])
engine = LLM(
    folder,
    dtype="float32",
    max_model_len=256,
    enforce_eager=True,
    limit_mm_per_prompt={"image": 3},
    gpu_memory_utilization=0.05,
    mm_processor_cache_gb=0,
    enable_prefix_caching=False,
)
asked = []
for text, names in json.load(open(f"{folder}/prompts.json")):
    images = [Image.open(f"{folder}/{name}") for name in names]
    asked.append({"prompt": text, **({"multi_modal_data": {"image": images}} if images else {})})
answers = engine.generate(
    asked, SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
)
print("TOKENS", json.dumps([list(answer.outputs[0].token_ids) for answer in answers]))
"""


def prompts():
    """Text alone, one picture, several, more than dynamic tiling splits, the same ones again."""
    first, second, third = noise(60, 40), noise(30, 30, seed=1), noise(25, 90, seed=2)
    return [
        ("hello there", []),
        ("What is <image>?", [first]),
        ("<image> and <image> are", [second, third]),
        ("A <image> b <image> c <image>", [first, second, third]),
        ("<image><image>", [first, first]),
    ]


def greedy(folder) -> list[list[int]]:
    processor = MM1Processor.from_pretrained(folder)
    model = MM1ForConditionalGeneration.from_pretrained(folder).eval()
    answers = []
    for text, images in prompts():
        inputs = processor(text=[text], images=images or None, return_tensors="pt")
        with torch.inference_mode():
            # No end of sequence: every prompt gives as many tokens to compare.
            tokens = model.generate(
                **inputs, max_new_tokens=LENGTH, do_sample=False, eos_token_id=-1
            )
        answers.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_generate(kind, tmp_path):
    folder = save_checkpoint(tmp_path / "model", kind=kind)
    asked = []
    for text, images in prompts():
        names = []
        for image in images:
            names.append(f"{len(list(folder.iterdir()))}.png")
            image.save(folder / names[-1])
        asked.append((text, names))
    (folder / "prompts.json").write_text(json.dumps(asked))
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(LENGTH)],
        capture_output=True,
        text=True,
        env=child_environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("TOKENS ")]
    assert lines, finished.stderr[-3000:]
    assert json.loads(lines[0].removeprefix("TOKENS ")) == greedy(folder)


def test_its_server_answers_about_pictures_in_a_request(checkpoint, tmp_path):
    from .test_transformers_server import greedy as greedy_chat

    first, second = noise(60, 40), noise(30, 30, seed=1)
    content = [
        {"type": "text", "text": "What is "},
        {"type": "image", "image": first},
        {"type": "text", "text": " beside <image> and "},
        {"type": "image", "image": second},
    ]
    expected, prompt_tokens = greedy_chat(checkpoint, content)
    sent = [
        part
        if part["type"] == "text"
        else {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
        for part in content
    ]
    model = str(checkpoint)
    arguments = ["serve", model, "--engine", "vllm", "--dtype", "float32"]
    for option in ("max-model-len=256", "enforce-eager", "gpu-memory-utilization=0.05"):
        arguments += ["--vllm-option", option]
    with serving(arguments, health="/health", log=tmp_path / "log", seconds=400) as server:
        status, text = server.post("/v1/chat/completions", chat(model, sent))
        answer = json.loads(text)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, expected)
        assert answer["usage"]["prompt_tokens"] == prompt_tokens
        for source in ("file:///etc/hostname", "http://127.0.0.1:9/x.png"):
            body = chat(model, [{"type": "image_url", "image_url": {"url": source}}])
            assert server.post("/v1/chat/completions", body)[0] >= 400
