"""With its options set, `MM1VisionModel` is SigLIP's tower: no class token, biased patches."""

import torch
from transformers import SiglipVisionModel

from mm1_hf import MM1VisionModel

from ..model import tiny

RENAMES = (
    ("vision_model.", ""),
    ("embeddings.", ""),
    ("encoder.", ""),
    ("layer_norm", "layernorm"),
    ("out_proj", "o_proj"),
    ("post_layernorm", "final_layernorm"),
)


def test_siglip_options_give_siglip():
    config = tiny.vision_configs()["siglip"]
    reference = tiny.randomised(SiglipVisionModel(config), gain=1.0)
    tower = MM1VisionModel(
        tiny.vision_config(
            use_class_token=False,
            use_pre_layernorm=False,
            patch_bias=True,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
    ).eval()
    renamed = {}
    for key, value in reference.state_dict().items():
        if "head." in key:
            continue
        for theirs, ours in RENAMES:
            key = key.replace(theirs, ours)
        renamed[key] = value
    tower.load_state_dict(renamed)

    pixels = tiny.tiles(2)
    expected = reference(pixels, output_hidden_states=True)
    found = tower(pixels, output_hidden_states=True)
    torch.testing.assert_close(
        found.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=0
    )
    for ours_, theirs_ in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-5, rtol=0)
