"""Four and eight bits through bitsandbytes on a CPU, where it is installed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BitsAndBytesConfig

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.quantisation import modules_to_not_convert

from .test_quantisation import inputs, mm1

pytest.importorskip("bitsandbytes", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# Of the rounding alone: 4 bits have 15 steps, and these random weights are no trained ones.
LEAST_COSINE = {4: 0.9, 8: 0.995}


@pytest.mark.parametrize("text", ["dense", "sparse"])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_answers_nearly_as_before_and_comes_back_equal(bits, text, tmp_path):
    model, batch = mm1(text), inputs()
    model.save_pretrained(tmp_path / "full")
    skipped = modules_to_not_convert(model.config, experts="keep")
    kind = {4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 8: {"load_in_8bit": True}}
    configuration = BitsAndBytesConfig(**kind[bits], llm_int8_skip_modules=skipped)
    quantised = MM1ForConditionalGeneration.from_pretrained(
        tmp_path / "full", device_map="cpu", quantization_config=configuration
    )
    # Before the first forward, which packs 4-bit weights anew for the CPU at hand: saved after it,
    # they come back wrong, without an error.
    quantised.save_pretrained(tmp_path / "few")
    with torch.no_grad():
        before, after = model(**batch).logits, quantised(**batch).logits
    found = F.cosine_similarity(before, after.float(), dim=-1).min()
    assert found > LEAST_COSINE[bits]
    for name, layer in quantised.named_modules():
        if isinstance(layer, nn.Linear):
            plain = type(layer).__module__.partition(".")[0] != "bitsandbytes"
            assert plain is not name.startswith("model.language_model"), name
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path / "few", device_map="cpu")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, after, rtol=0, atol=1e-5)
