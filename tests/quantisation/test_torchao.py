"""int8 through torchao and transformers, saved and loaded; where torchao is installed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TorchAoConfig

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.quantisation import modules_to_not_convert

from .test_quantisation import inputs, mm1

pytest.importorskip("torchao", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def configuration(model, **kwargs) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    skipped = modules_to_not_convert(model.config, **kwargs)
    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skipped)


def is_plain(parameter: torch.Tensor) -> bool:
    return type(parameter.data) is torch.Tensor and type(parameter) is nn.Parameter


@pytest.mark.parametrize(
    ("text", "accept"),
    [("dense", {}), ("sparse", {"experts": "keep"}), ("mixtral", {"experts": "keep"})],
)
def test_it_answers_nearly_as_before_and_comes_back_equal(text, accept, tmp_path):
    model, batch = mm1(text), inputs()
    model.save_pretrained(tmp_path / "full")
    quantised = MM1ForConditionalGeneration.from_pretrained(
        tmp_path / "full", quantization_config=configuration(model, **accept)
    )
    with torch.no_grad():
        before, after = model(**batch).logits, quantised(**batch).logits
    assert not torch.equal(before, after)
    assert F.cosine_similarity(before, after, dim=-1).min() > 0.999
    for name, parameter in quantised.named_parameters():
        layer = quantised.get_submodule(name.rpartition(".")[0])
        inside = name.startswith("model.language_model") and isinstance(layer, nn.Linear)
        assert is_plain(parameter) is not (inside and name.endswith("weight")), name
    quantised.save_pretrained(tmp_path / "int8")
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path / "int8")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, after, rtol=0, atol=1e-4)


def test_tower_and_connector_are_converted_on_request(tmp_path):
    model, pixels = mm1(), inputs()["pixel_values"]
    model.save_pretrained(tmp_path)
    quantised = MM1ForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=configuration(model, keep=("language_model", "lm_head"))
    )
    with torch.no_grad():
        before, after = (one.get_image_features(pixels).pooler_output for one in (model, quantised))
    assert not torch.equal(before, after)
    assert F.cosine_similarity(before, after, dim=-1).min() > 0.999
