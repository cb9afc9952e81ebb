"""`MM1VisionModel` is open_clip's vision transformer, built here from torch's own attention."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mm1_hf import MM1ImageProcessor, MM1VisionModel
from mm1_hf.conversion import ConversionOptions, convert, convert_back

from ..conversion.originals import saved
from ..model import tiny

WIDTH, LAYERS, HEAD_WIDTH, PATCH, SIDE = 32, 2, 8, 7, 28
CONFIG = {
    "model_cfg": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": HEAD_WIDTH,
            "patch_size": PATCH,
        },
        "text_cfg": {"layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


class QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, activation: nn.Module):
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // HEAD_WIDTH, batch_first=True)
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)}
        )
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class Reference(nn.Module):
    """Patches, class token, positions, norm, blocks, norm; names as in open_clip's checkpoints."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        num_patches = (SIDE // PATCH) ** 2
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(num_patches + 1, WIDTH))
        self.proj = nn.Parameter(torch.empty(WIDTH, 12))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(activation) for _ in range(LAYERS))
        self.ln_post = nn.LayerNorm(WIDTH)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        states = [self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)]
        for block in self.transformer.resblocks:
            states.append(block(states[-1]))
        return [*states, self.ln_post(states[-1])]


def reference(folder: Path, *, quick_gelu: bool = True) -> Reference:
    """A random tower, and a checkpoint of a whole model that has it."""
    tower = tiny.randomised(Reference(QuickGelu() if quick_gelu else nn.GELU()), gain=1.0)
    text = {
        "positional_embedding": torch.randn(7, 8),
        "token_embedding.weight": torch.randn(9, 8),
        "transformer.resblocks.0.attn.in_proj_weight": torch.randn(24, 8),
        "ln_final.weight": torch.randn(8),
        "text_projection": torch.randn(8, 12),
        "logit_scale": torch.tensor(2.0),
    }
    folder.mkdir()
    vision = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    save_file({**vision, **text}, folder / "open_clip_model.safetensors")
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["quick_gelu"] = quick_gelu
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return tower


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_every_hidden_state_is_open_clips(quick_gelu, tmp_path):
    tower = reference(tmp_path / "theirs", quick_gelu=quick_gelu)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    ours = MM1VisionModel.from_pretrained(tmp_path / "ours").eval()
    pixels = tiny.tiles(3)
    *expected, last = tower(pixels)
    assert last.std() > 0.05
    found = ours(pixels, output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, last, atol=1e-5, rtol=1e-5)
    assert len(found.hidden_states) == len(expected)
    for hidden, theirs in zip(found.hidden_states, expected, strict=True):
        torch.testing.assert_close(hidden, theirs, atol=1e-5, rtol=1e-5)
    assert list(report.set_aside) == ["visual.proj"]
    assert set(report.dropped.values()) == {"CLIP's text tower", "CLIP's common space"}
    assert len(report.reshaped) == 2 * 3 * LAYERS


@pytest.mark.parametrize("options", [{}, {"feature_layer": -2, "use_final_norm": False}])
def test_there_and_back_changes_no_bit_and_the_original_loads_it(options, tmp_path):
    tower = reference(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours", options=ConversionOptions(**options))
    convert_back(tmp_path / "ours", tmp_path / "again", kind="open_clip")
    found = load_file(tmp_path / "again" / "open_clip_model.safetensors")
    again = Reference(QuickGelu()).eval()
    again.load_state_dict({key.removeprefix("visual."): value for key, value in found.items()})
    for key, value in tower.state_dict().items():
        assert torch.equal(found[f"visual.{key}"], value), key
    pixels = tiny.tiles(1)
    assert torch.equal(again(pixels)[-1], tower(pixels)[-1])
    written = json.loads((tmp_path / "again" / "open_clip_config.json").read_text())["model_cfg"]
    expected = {**CONFIG["model_cfg"]["vision_cfg"], "mlp_ratio": 4.0}
    assert written["vision_cfg"] == expected
    assert (written["embed_dim"], written["quick_gelu"]) == (12, True)


def test_its_way_with_pictures_comes_along(tmp_path):
    reference(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    processor = MM1ImageProcessor.from_pretrained(tmp_path / "ours")
    assert processor.resize_policy == "stretch"
    assert (processor.size["height"], list(processor.image_mean)) == (SIDE, [0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    "change", [{"ls_init_value": 1e-5}, {"attentional_pool": True}, {"timm_model_name": "vit"}]
)
def test_another_architecture_is_refused(change, tmp_path):
    reference(tmp_path / "theirs")
    path = tmp_path / "theirs" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=next(iter(change))):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_beside_a_clip_of_transformers_the_kind_tells_which(tmp_path):
    tower = reference(tmp_path / "theirs")
    saved("clip", tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "first")
    assert report.source == "CLIPVisionModel"
    convert(tmp_path / "theirs", tmp_path / "ours", kind="open_clip")
    ours = MM1VisionModel.from_pretrained(tmp_path / "ours").eval()
    pixels = tiny.tiles(1)
    found = ours(pixels).last_hidden_state
    torch.testing.assert_close(found, tower(pixels)[-1], atol=1e-5, rtol=1e-5)


def test_without_its_configuration_the_heads_are_not_guessed(tmp_path):
    reference(tmp_path / "theirs")
    (tmp_path / "theirs" / "open_clip_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no open_clip_config\.json"):
        convert(tmp_path / "theirs", tmp_path / "ours", kind="open_clip")
