"""The C-Abstractor is Honeybee's: timm's RegStage, pooling, RegStage, MLP."""

import pytest
import torch
from torch import nn

from mm1_hf import MM1Connector

from ..model import tiny

BLOCK_NAMES = (
    ("conv1.weight", "conv1.conv.weight"),
    ("norm1.weight", "conv1.bn.weight"),
    ("norm1.bias", "conv1.bn.bias"),
    ("conv2.weight", "conv2.conv.weight"),
    ("norm2.weight", "conv2.bn.weight"),
    ("norm2.bias", "conv2.bn.bias"),
    ("se.fc1.weight", "se.fc1.weight"),
    ("se.fc1.bias", "se.fc1.bias"),
    ("se.fc2.weight", "se.fc2.weight"),
    ("se.fc2.bias", "se.fc2.bias"),
    ("conv3.weight", "conv3.conv.weight"),
    ("norm3.weight", "conv3.bn.weight"),
    ("norm3.bias", "conv3.bn.bias"),
    ("shortcut.weight", "downsample.conv.weight"),
    ("shortcut_norm.weight", "downsample.bn.weight"),
    ("shortcut_norm.bias", "downsample.bn.bias"),
)


class Reference(nn.Module):
    """Honeybee's projector, built from timm; names of parameters as in its checkpoints."""

    def __init__(
        self, reg_stage, *, dv: int, width: int, dt: int, depth: int, side: int, grid: int
    ):
        super().__init__()

        def stage(channels: int) -> nn.Module:
            return reg_stage(
                depth=depth,
                in_chs=channels,
                out_chs=width,
                stride=1,
                dilation=1,
                group_size=1,
                bottle_ratio=1,
                se_ratio=0.25,
                downsample="conv1x1",
                act_layer=nn.SiLU,
                norm_layer="layernorm2d",
            )

        self.pos_emb = nn.Parameter(torch.zeros(1, grid * grid, dv))
        self.net = nn.Sequential(stage(dv), nn.AdaptiveAvgPool2d((side, side)), stage(width))
        self.readout = nn.Sequential(nn.Linear(width, dt), nn.SiLU(), nn.Linear(dt, dt))
        self.grid = grid

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        picture = (patches + self.pos_emb).unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        return self.readout(self.net(picture).permute(0, 2, 3, 1).flatten(1, 2))


def renamed(reference: Reference, *, depth: int) -> dict[str, torch.Tensor]:
    theirs = reference.state_dict()
    ours = {"projector.position_embedding": theirs.pop("pos_emb")[0]}
    for stage, index in (("stage1", 0), ("stage2", 2)):
        for block in range(depth):
            for own_name, name in BLOCK_NAMES:
                value = theirs.pop(f"net.{index}.b{block + 1}.{name}", None)
                if value is None:
                    assert own_name.startswith("shortcut") and (stage, block) != ("stage1", 0)
                    continue
                # Our 1x1 convolutions are linear layers.
                is_pointwise = value.ndim == 4 and value.shape[-1] == 1
                value = value.flatten(1) if is_pointwise else value
                ours[f"projector.{stage}.{block}.{own_name}"] = value
    for name in ("readout.0", "readout.2"):
        for kind in ("weight", "bias"):
            ours[f"projector.{name}.{kind}"] = theirs.pop(f"{name}.{kind}")
    assert not theirs, f"not renamed: {sorted(theirs)}"
    return ours


@pytest.mark.parametrize(
    ("grid", "side", "depth"), [(27, 12, 3), (16, 12, 1), (27, 8, 1), (24, 12, 2)]
)
def test_the_c_abstractor_is_honeybees(reg_stage, grid, side, depth):
    sizes = {"dv": 48, "width": 32, "dt": 24, "depth": depth, "side": side, "grid": grid}
    reference = Reference(reg_stage, **sizes)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            noise = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
            parameter.copy_(1 + 0.1 * noise if "bn.weight" in name else noise)
    reference.eval()
    module = MM1Connector(
        tiny.lone_connector_config(
            "c_abstractor",
            vision_hidden_size=48,
            hidden_size=32,
            depth=depth,
            num_image_tokens=side * side,
            patch_grid=[grid, grid],
        )
    ).eval()
    module.load_state_dict(renamed(reference, depth=depth))
    patches = torch.randn(2, grid * grid, 48)
    expected = reference(patches)
    assert expected.std() > 0.05
    torch.testing.assert_close(module(patches), expected, atol=1e-5, rtol=0)
