"""The C-Abstractor is Honeybee's: timm's RegStage, pooling, RegStage, MLP."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mm1_hf import MM1Connector
from mm1_hf.conversion import ConversionOptions, convert, convert_back


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


def honeybee(
    reg_stage, folder: Path, *, extra_row: bool = False, prefix: str = "abstractor.", **sizes: int
) -> Reference:
    """A random projector, and a checkpoint of a whole model that has it."""
    reference = Reference(reg_stage, **sizes)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            noise = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
            parameter.copy_(1 + 0.1 * noise if "bn.weight" in name else noise)
    tensors = {f"{prefix}{key}": value for key, value in reference.state_dict().items()}
    if extra_row:
        old = [torch.randn(1, 1, sizes["dv"]), tensors[f"{prefix}pos_emb"]]
        tensors[f"{prefix}pos_emb"] = torch.cat(old, dim=1)
    if prefix:
        tensors["vision_model.embeddings.class_embedding"] = torch.randn(3)
        tensors["language_model.lm_head.weight"] = torch.randn(3, 3)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "mllm", "num_query_tokens": sizes["side"] ** 2}
    (folder / "config.json").write_text(json.dumps(config))
    return reference.eval()


def sizes(*, grid: int = 6, side: int = 4, depth: int = 1) -> dict[str, int]:
    return {"dv": 48, "width": 32, "dt": 24, "depth": depth, "side": side, "grid": grid}


@pytest.mark.parametrize(
    ("grid", "side", "depth"), [(27, 12, 3), (16, 12, 1), (27, 8, 1), (24, 12, 2)]
)
def test_the_c_abstractor_is_honeybees(reg_stage, grid, side, depth, tmp_path):
    shape = sizes(grid=grid, side=side, depth=depth)
    reference = honeybee(reg_stage, tmp_path / "theirs", **shape)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    module = MM1Connector.from_pretrained(tmp_path / "ours").eval()
    patches = torch.randn(2, grid * grid, 48)
    expected = reference(patches)
    assert expected.std() > 0.05
    torch.testing.assert_close(module(patches), expected, atol=1e-5, rtol=0)
    assert set(report.dropped) == {
        "vision_model.embeddings.class_embedding",
        "language_model.lm_head.weight",
    }


@pytest.mark.parametrize("prefix", ["abstractor.", ""])
def test_there_and_back_changes_no_bit_and_the_original_loads_it(reg_stage, prefix, tmp_path):
    reference = honeybee(reg_stage, tmp_path / "theirs", prefix=prefix, **sizes())
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "again")
    found = load_file(tmp_path / "again" / "model.safetensors")
    again = Reference(reg_stage, **sizes()).eval()
    again.load_state_dict({key.removeprefix("abstractor."): x for key, x in found.items()})
    for key, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_the_unused_row_of_old_checkpoints_goes(reg_stage, tmp_path):
    reference = honeybee(reg_stage, tmp_path / "theirs", extra_row=True, **sizes())
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert "first row of pos_emb" in str(report)
    module = MM1Connector.from_pretrained(tmp_path / "ours").eval()
    patches = torch.randn(1, 36, 48)
    torch.testing.assert_close(module(patches), reference(patches), atol=1e-5, rtol=0)


def test_the_number_of_tokens_is_asked_for_where_nothing_tells(reg_stage, tmp_path):
    honeybee(reg_stage, tmp_path / "theirs", **sizes())
    (tmp_path / "theirs" / "config.json").unlink()
    with pytest.raises(ValueError, match="--num-image-tokens"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    options = ConversionOptions(num_image_tokens=9)
    convert(tmp_path / "theirs", tmp_path / "ours", options=options)
    assert MM1Connector.from_pretrained(tmp_path / "ours").config.num_image_tokens == 9


@pytest.mark.parametrize("extra", ["eos_tokens", "prenorm.weight"])
def test_parts_that_our_connector_has_not_are_an_error(reg_stage, extra, tmp_path):
    honeybee(reg_stage, tmp_path / "theirs", **sizes())
    path = tmp_path / "theirs" / "model.safetensors"
    save_file({**load_file(path), f"abstractor.{extra}": torch.zeros(1, 1, 24)}, path)
    with pytest.raises(ValueError, match=f"no place in MM1Connector: abstractor.{extra}"):
        convert(tmp_path / "theirs", tmp_path / "ours")
