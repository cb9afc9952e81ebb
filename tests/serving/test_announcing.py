"""Engines look classes up by name, in whichever `transformers` module object they hold."""

import subprocess
import sys

import pytest

from .conftest import child_environment

PROGRAM = """
import sys
{beginning}
from mm1_hf.serving import register_vllm
register_vllm()
register_vllm()
current = sys.modules["transformers"]
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration
for module in (current, globals().get("transformers", current)):
    assert module.MM1ForConditionalGeneration is MM1ForConditionalGeneration
    assert module.MM1ForCausalLM is MM1ForCausalLM
name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["mm1"]
assert getattr(current, name).is_backend_compatible()
assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["mm1_text"] == "MM1ForCausalLM"
assert "vllm" not in sys.modules and "gradio" not in sys.modules
print("announced")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "beginning",
    ["import transformers", "import mm1_hf"],
    ids=["engine_first", "mm1_hf_first"],
)
def test_every_transformers_module_object_has_our_classes(beginning):
    program = PROGRAM.format(beginning=beginning)
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=child_environment()
    )
    assert finished.stdout.strip() == "announced", finished.stderr
