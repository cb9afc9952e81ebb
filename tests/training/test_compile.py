"""Compiled training computes what plain training does, in as few pieces as there are reasons."""

import pytest
import torch
from torch import nn

from mm1_hf import MM1ForConditionalGeneration

from ..model import tiny

pytestmark = [
    pytest.mark.slow,
    # torch warns of itself while it compiles.
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("DeprecationWarning", "UserWarning")
    ),
]


@pytest.fixture(autouse=True)
def _forget_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_model(**changes) -> MM1ForConditionalGeneration:
    torch.manual_seed(0)
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes)))


def make_inputs(*, images: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    picture = "image" if images else [3, 4, 5, 6]
    rows = [tiny.prompt([5, 6], picture, [7, 8, 9]), tiny.prompt(picture, [10, 11, 12, 13, 14])]
    inputs = {"input_ids": torch.tensor(rows)}
    return {**inputs, "pixel_values": tiny.tiles(2)} if images else inputs


class TrainingStep(nn.Module):
    """The forward of training: the loss alone."""

    def __init__(self, model: MM1ForConditionalGeneration):
        super().__init__()
        self.model = model

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs, labels=labels).loss


def loss_and_gradients(step: nn.Module, model: nn.Module, inputs: dict[str, torch.Tensor]):
    model.train()
    model.zero_grad()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, -100)
    loss = step(labels, **inputs)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def require_equal(found, expected) -> None:
    assert torch.allclose(found[0], expected[0], rtol=1e-5)
    scale = max(one.abs().max() for one in expected[1].values())
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-5 * scale), name


@pytest.mark.parametrize("images", [True, False], ids=["pictures", "text alone"])
def test_a_compiled_training_step_has_the_same_loss_and_gradients(images):
    inputs, model = make_inputs(images=images), make_model()
    step = TrainingStep(model)
    expected = loss_and_gradients(step, model, inputs)
    compiled = torch.compile(step, backend="aot_eager")
    require_equal(loss_and_gradients(compiled, model, inputs), expected)


def test_the_loss_is_the_only_graph_break():
    inputs, model = make_inputs(), make_model().train()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, -100)
    # Otherwise the check that there are as many tiles as placeholders breaks the graph too.
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        explained = torch._dynamo.explain(TrainingStep(model))(labels, **inputs)
    assert explained.break_reasons
    assert all("_supervised_losses" in str(one.reason) for one in explained.break_reasons)
    assert explained.graph_count == 3


@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_all_but_the_loss_compiles_into_one_graph(connector_type):
    connector = tiny.connector_config(connector_type)
    num_tokens = connector.num_image_tokens or 16
    model = make_model(connector_config=connector)
    ids = torch.tensor([tiny.prompt([5], "image", [7, 8], num_image_tokens=num_tokens)])
    inputs = {"input_ids": ids, "pixel_values": tiny.tiles(1)}
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(**inputs, use_cache=False).logits, expected, atol=1e-4)
