import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.hub import publish_to_folder

pytestmark = pytest.mark.slow

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SPARSE_TEXT = {**TEXT, "num_experts": 4, "moe_every_n_layers": 2}

# Runs where mm1_hf cannot be imported, and writes what it computed.
STRANGER = textwrap.dedent("""
    import json, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mm1_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import torch
    from PIL import Image
    import transformers as tf

    folder, picture = sys.argv[1:]
    trust = {"trust_remote_code": True}
    model = tf.AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
    processor = tf.AutoProcessor.from_pretrained(folder, **trust)
    image_processor = tf.AutoImageProcessor.from_pretrained(folder, **trust)
    base = tf.AutoModel.from_pretrained(folder, **trust)
    inputs = processor(text="a <image> b", images=Image.open(picture), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    pipe = tf.pipeline("image-text-to-text", model=model, processor=processor)
    assert not any(name.split(".")[0] == "mm1_hf" for name in sys.modules)
    print(json.dumps({
        "config": type(tf.AutoConfig.from_pretrained(folder, **trust)).__name__,
        "base": type(base).__name__,
        "image_processor": type(image_processor).__name__,
        "input_ids": inputs["input_ids"].tolist(),
        "pixel_sum": inputs["pixel_values"].double().sum().item(),
        "logits": logits.tolist(),
    }))
""")


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["a b c"],
        trainers.BpeTrainer(
            special_tokens=["<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run_stranger(folder, picture, tmp_path) -> dict:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(picture)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


PARTS = {
    "own parts": (MM1VisionConfig(**VISION), MM1TextConfig(**TEXT)),
    "sparse": (MM1VisionConfig(**VISION), MM1TextConfig(**SPARSE_TEXT)),
    "foreign parts": (CLIPVisionConfig(**VISION), LlamaConfig(**TEXT)),
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=list(PARTS))
def test_a_published_folder_answers_alike_where_the_package_is_absent(parts, picture, tmp_path):
    tokenizer = make_tokenizer()
    model = MM1ForConditionalGeneration.from_parts(
        vision=parts[0],
        text=parts[1],
        connector=MM1ConnectorConfig(hidden_size=16, num_image_tokens=4),
        tokenizer=tokenizer,
    ).eval()
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config, tiling="static")
    folder = publish_to_folder(model=model, processor=processor, folder=tmp_path / "published")

    answer = run_stranger(folder, picture, tmp_path)

    inputs = processor(text="a <image> b", images=Image.open(picture), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert answer["config"] == "MM1Config"
    assert answer["base"] == "MM1Model"
    assert answer["image_processor"].startswith("MM1ImageProcessor")
    assert answer["input_ids"] == inputs["input_ids"].tolist()
    assert answer["pixel_sum"] == inputs["pixel_values"].double().sum().item()
    torch.testing.assert_close(torch.tensor(answer["logits"]), logits, rtol=0, atol=1e-6)


def test_only_safetensors_and_code_are_written(tmp_path):
    model = MM1ForCausalLM(MM1TextConfig(**TEXT))
    folder = publish_to_folder(
        model=model, processor=None, folder=tmp_path / "text", max_shard_size="50KB"
    )
    suffixes = {file.suffix for file in folder.iterdir()}
    assert suffixes == {".json", ".py", ".safetensors"}
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_publishing_again_replaces_the_older_model(tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = MM1ForCausalLM(MM1TextConfig(**TEXT))
        folder = publish_to_folder(model=model, processor=None, folder=tmp_path / "text")
    loaded = MM1ForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["text"]


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "letters.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not overwritten"):
        publish_to_folder(
            model=MM1ForCausalLM(MM1TextConfig(**TEXT)), processor=None, folder=tmp_path
        )
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_a_model_that_sees_needs_its_processor(tmp_path):
    config = MM1Config(
        vision_config=VISION,
        text_config=TEXT,
        connector_config={"hidden_size": 16, "num_image_tokens": 4},
    )
    with pytest.raises(ValueError, match="processor="):
        publish_to_folder(
            model=MM1ForConditionalGeneration(config), processor=None, folder=tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
