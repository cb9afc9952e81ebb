"""In a fresh process, whatever is imported first, every Auto class knows MM1."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration, MM1Processor

from ..model import tiny

pytestmark = pytest.mark.slow

AUTO = "AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM"
AUTO_MORE = "AutoModelForImageTextToText, AutoProcessor"

BEGINNINGS = {
    "transformers_first": f"from transformers import {AUTO}, {AUTO_MORE}\nimport mm1_hf",
    "mm1_hf_first": f"import mm1_hf\nfrom transformers import {AUTO}, {AUTO_MORE}",
    "a_part_first": "from mm1_hf.model.vision_mm1 import MM1VisionModel",
    "the_processor_first": "from mm1_hf import MM1Processor",
    "one_auto_class_first": "from transformers import AutoProcessor\nfrom mm1_hf import MM1Config",
}

CHECKS = """
import sys
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
    AutoProcessor,
)
whole, decoder = sys.argv[1:]
for auto_class, folder, expected in (
    (AutoProcessor, whole, "MM1Processor"),
    (AutoImageProcessor, whole, "MM1ImageProcessor"),
    (AutoModelForImageTextToText, whole, "MM1ForConditionalGeneration"),
    (AutoModelForCausalLM, decoder, "MM1ForCausalLM"),
    (AutoModel, whole, "MM1Model"),
    (AutoModel, decoder, "MM1TextModel"),
    (AutoConfig, whole, "MM1Config"),
):
    found = type(auto_class.from_pretrained(folder)).__name__.removesuffix("Pil")
    assert found == expected, f"{auto_class.__name__} made a {found}"
print("known")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with a whole model and its processor, and one with a decoder."""
    whole, decoder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("decoder")
    words = ["<pad>", "<s>", "</s>", "<unk>", "what", "is", "this", ":", "user", "assistant"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    model = MM1ForConditionalGeneration(tiny.config(image_token_id=None))
    processor = MM1Processor.from_parts(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), config=model.config
    )
    model.save_pretrained(whole)
    processor.save_pretrained(whole)
    MM1ForCausalLM(tiny.text_config()).save_pretrained(decoder)
    return whole, decoder


def run(program: str, *arguments: Path) -> str:
    """Run a program in a process of its own; a warning is an error there too."""
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    finished = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", textwrap.dedent(program)]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_every_auto_class_knows_mm1(beginning, saved):
    assert "known" in run(BEGINNINGS[beginning] + CHECKS, *saved)


def test_the_pipeline_answers_about_a_picture(saved):
    program = """
        import sys
        import mm1_hf
        from PIL import Image
        from transformers import pipeline
        answer = pipeline("image-text-to-text", model=sys.argv[1], device="cpu")
        picture = Image.new("RGB", (40, 30), "red")
        out = answer(images=picture, text="<image> what is this", max_new_tokens=3)
        print("answered", out[0]["generated_text"])
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "what is this"}]
        out = answer(text=[{"role": "user", "content": content}], max_new_tokens=3)
        print("chatted", out[0]["generated_text"][-1]["role"])
    """
    printed = run(program, saved[0])
    assert "answered" in printed
    assert "chatted assistant" in printed
