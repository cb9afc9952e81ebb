import math

import pytest
import torch
from torch import nn

from mm1_hf import MM1Connector, MM1ConnectorConfig
from mm1_hf.model.connectors_mm1 import CONNECTORS, _pool_to_square

from . import tiny


def connector(connector_type: str, **changes) -> MM1Connector:
    return tiny.randomised(MM1Connector(tiny.lone_connector_config(connector_type, **changes)))


def full_size(connector_type: str = "c_abstractor", **changes) -> MM1Connector:
    """MM1's connector at 378 px into 3072; on the meta device, as only shapes are asked for."""
    config = MM1ConnectorConfig(
        connector_type=connector_type,
        vision_hidden_size=1280,
        text_hidden_size=3072,
        patch_grid=[27, 27],
        **changes,
    )
    with torch.device("meta"):
        return MM1Connector(config)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_every_connector_makes_the_promised_number_of_tokens(connector_type):
    module = connector(connector_type)
    assert module(torch.randn(3, 16, 32)).shape == (3, module.config.num_image_tokens or 16, 24)


@pytest.mark.parametrize("connector_type", ["average_pool", "attention_pool", "c_abstractor"])
@pytest.mark.parametrize("grid", [(6, 6), (3, 5)])
def test_the_number_of_tokens_does_not_depend_on_the_resolution(connector_type, grid):
    found = connector(connector_type)(torch.randn(2, math.prod(grid), 32), grid=grid)
    assert found.shape == (2, 4, 24)


@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_a_gradient_reaches_every_parameter(connector_type):
    module = connector(connector_type)
    module(torch.randn(2, 16, 32)).square().sum().backward()
    assert not tiny.parameters_without_gradient(module)
    dead = [name for name, p in module.named_parameters() if not p.grad.any()]
    # Adding a constant to all keys changes no soft-max.
    assert dead == [] or dead == ["projector.k_proj.bias"]


@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_tiles_do_not_mix(connector_type):
    module, patches = connector(connector_type), torch.randn(3, 16, 32)
    torch.testing.assert_close(module(patches)[1:2], module(patches[1:2]))


def test_parameter_counts_are_those_of_the_paper():
    module = full_size()
    stage1, stage2 = module.projector.stage1, module.projector.stage2
    assert num_parameters(stage1[0]) == 4_344_128
    assert [num_parameters(block) for block in (*stage1[1:], *stage2)] == [2_638_080] * 5
    assert module.projector.position_embedding.numel() == 933_120
    assert num_parameters(module.projector.readout) == 12_589_056
    assert num_parameters(module) == 31_056_704
    assert num_parameters(full_size("average_pool")) == 1280 * 3072 + 3072


@pytest.mark.parametrize(("source", "target"), [(27, 12), (16, 12), (27, 8), (24, 12)])
def test_bins_that_do_not_divide_overlap(source, target):
    patches = torch.randn(2, source * source, 5)
    found = _pool_to_square(patches, grid=(source, source), num_tokens=target * target)
    grid = patches.reshape(2, source, source, 5)
    edges = [(i * source // target, -(-(i + 1) * source // target)) for i in range(target)]
    expected = [grid[:, a:b, c:d].mean((1, 2)) for a, b in edges for c, d in edges]
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-5, rtol=0)


def test_average_pool_keeps_the_picture_upright():
    """Row by row: the first two tokens come from the upper half."""
    module = connector("average_pool")
    patches = torch.randn(1, 16, 32)
    changed = patches.clone()
    changed[:, :8] += 1
    same = (module(patches) == module(changed)).all(-1)[0]
    assert same.tolist() == [False, False, True, True]


def test_attention_pool_ignores_the_order_of_patches():
    module, patches = connector("attention_pool"), torch.randn(2, 16, 32)
    shuffled = patches[:, torch.randperm(16)]
    torch.testing.assert_close(module(shuffled), module(patches), atol=1e-5, rtol=1e-5)


def test_attention_pool_is_the_same_with_every_implementation():
    module, patches = connector("attention_pool"), torch.randn(2, 16, 32)
    outputs = []
    for implementation in ("eager", "sdpa"):
        module.set_attn_implementation(implementation)
        outputs.append(module(patches))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_attention_pool_takes_any_number_of_tokens():
    assert connector("attention_pool", num_image_tokens=5)(torch.randn(1, 16, 32)).shape[1] == 5


@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_a_connector_saves_and_loads_by_itself(connector_type, tmp_path):
    module, patches = connector(connector_type), torch.randn(2, 16, 32)
    module.save_pretrained(tmp_path)
    torch.testing.assert_close(MM1Connector.from_pretrained(tmp_path)(patches), module(patches))


def test_a_new_connector_starts_from_finite_noise():
    for connector_type in tiny.CONNECTOR_TYPES:
        module = MM1Connector(tiny.lone_connector_config(connector_type))
        for name, parameter in module.named_parameters():
            assert parameter.isfinite().all(), name
            expected = "norm" in name and name.endswith("weight")
            assert parameter.mean().abs() < 0.1 or expected, name
            assert parameter.ndim < 2 or 0.01 < parameter.std() < 0.03, name


def test_an_unknown_connector_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="'perceiver': known are attention_pool, average_pool, c_abs"
    ):
        MM1Connector(tiny.lone_connector_config("perceiver"))


def test_a_connector_without_its_shared_numbers_is_an_error_that_names_them():
    with pytest.raises(ValueError, match="lacks vision_hidden_size, text_hidden_size, patch_grid"):
        MM1Connector(MM1ConnectorConfig())


@pytest.mark.parametrize("shape", [(2, 17, 32), (2, 16, 24), (16, 32)])
def test_patches_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expects \(tiles, 16, 32\)"):
        connector("average_pool")(torch.zeros(shape))


def test_ones_own_connector_is_a_class_and_an_entry(monkeypatch, tmp_path):
    class FirstPatches(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.num_tokens = config.num_image_tokens
            self.linear = nn.Linear(config.vision_hidden_size, config.text_hidden_size)

        def forward(self, patches, grid):
            return self.linear(patches[:, : self.num_tokens])

    monkeypatch.setitem(CONNECTORS, "first_patches", FirstPatches)
    module = connector("first_patches", num_image_tokens=3)
    patches = torch.randn(2, 16, 32)
    assert module(patches).shape == (2, 3, 24)
    module.save_pretrained(tmp_path)
    torch.testing.assert_close(MM1Connector.from_pretrained(tmp_path)(patches), module(patches))
