"""A small checkpoint that answers, dense and sparse, and pictures to ask about."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mm1_hf import MM1ForConditionalGeneration, MM1Processor

from ..model import tiny
from ..model.processors import make_config
from ..small_tokenizers import SmallTokenizers

# Heads of width 32: the least that vLLM's attention on CPU takes.
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
KINDS = {"dense": {}, "sparse": SPARSE}


def save_checkpoint(folder: Path, *, kind: str = "dense", **processor_settings) -> Path:
    """A random model and its processor; the same weights in every process."""
    sizes = {"vocab_size": 512, "hidden_size": 32, "head_dim": 32, **KINDS[kind]}
    settings = {"tiling": "dynamic", "max_tiles": 4, **processor_settings}
    config = make_config(text_config=tiny.text_config(**sizes))
    processor = MM1Processor.from_parts(
        tokenizer=SmallTokenizers()("byte_level"), config=config, **settings
    )
    torch.manual_seed(0)
    tiny.randomised(MM1ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("serving") / "dense")


def noise(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """A picture on which a random model's answer depends."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def child_environment() -> dict[str, str]:
    """For a process of a test: one thread, nothing reported; vLLM's keys and values in 1 GiB."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    return os.environ | settings
