"""`MM1VisionModel`: the CLIP-style vision transformer of MM1.

Letters: N tiles, P patches, S = P + 1 with a class token (else P), D width, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .base_mm1 import (
    MM1PreTrainedModel,
    eager_bidirectional_attention,
    resample_positions,
)
from .configuration_mm1 import MM1VisionConfig, image_height_width, patch_grid

# Towers whose learned positions can be resampled for good, and the module that holds them.
_POSITIONED = {
    "mm1_vision": "",
    "aimv2_vision_model": "embeddings",
    "clip_vision_model": "embeddings",
    "siglip_vision_model": "embeddings",
}


class MM1VisionAttention(nn.Module):
    """Self-attention among the patches of one tile."""

    def __init__(self, config: MM1VisionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; `(N, S, D)` to `(N, S, D)` and, with eager attention, weights `(N, H, S, S)`."""
        per_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(per_head).transpose(1, 2)  # (N, H, S, D / H)
        key = self.k_proj(hidden_states).view(per_head).transpose(1, 2)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_bidirectional_attention
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1).contiguous()), weights


class QuickGELU(nn.Module):
    """OpenAI CLIP's x * sigmoid(1.702 x), written as a SiLU.

    That keeps one tensor for the backward pass where the product keeps two.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply to each entry."""
        return F.silu(1.702 * hidden_states) / 1.702


class MM1VisionMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: MM1VisionConfig):
        super().__init__()
        is_quick = config.hidden_act == "quick_gelu"
        self.activation = QuickGELU() if is_quick else ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(N, S, D)` to `(N, S, D)`."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class MM1VisionLayer(GradientCheckpointingLayer):
    """One pre-norm transformer block."""

    def __init__(self, config: MM1VisionConfig):
        super().__init__()
        self.layernorm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = MM1VisionAttention(config)
        self.layernorm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MM1VisionMLP(config)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """`(N, S, D)` to `(N, S, D)`."""
        hidden_states = hidden_states + self.self_attn(self.layernorm1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.layernorm2(hidden_states))


class MM1VisionModel(MM1PreTrainedModel):
    """Vision transformer that turns tiles into patch tokens.

    Equal to transformers' `CLIPVisionModel` on converted weights (`mm1_hf.conversion`), hidden
    state by hidden state. Tiles of any size are taken: the learned positions are resampled to the
    patch grid of the input.

    Source: MM1, arXiv 2403.09611, section 3; block as in CLIP, arXiv 2103.00020.
    """

    config: MM1VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embedding"
    _no_split_modules = ["MM1VisionLayer"]
    _can_record_outputs = {"hidden_states": MM1VisionLayer, "attentions": MM1VisionAttention}

    def __init__(self, config: MM1VisionConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )
        rows, columns = patch_grid(config)
        self.num_prefix_tokens = int(config.use_class_token)
        self.position_embedding = nn.Embedding(
            rows * columns + self.num_prefix_tokens, config.hidden_size
        )
        if config.use_class_token:
            self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        norm = nn.LayerNorm if config.use_pre_layernorm else nn.Identity
        self.pre_layernorm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(MM1VisionLayer(config) for _ in range(config.num_built_layers))
        norm = nn.LayerNorm if config.use_final_norm else nn.Identity
        self.final_layernorm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self and self.config.use_class_token:
            init.normal_(self.class_embedding, std=self.config.hidden_size**-0.5)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Position embeddings `(S, D)` for a patch grid; the class token's is never resampled."""
        table = self.position_embedding.weight
        if grid == patch_grid(self.config):
            return table
        prefix, patches = table.tensor_split([self.num_prefix_tokens])
        patches = resample_positions(patches, source_grid=patch_grid(self.config), target_grid=grid)
        return torch.cat([prefix, patches])

    def resize_image(self, size: int | tuple[int, int]) -> None:
        """Make another tile size the native one; see `resize_tower`."""
        resize_tower(self, size)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Encode tiles.

        Args:
            pixel_values: `(N, channels, height, width)`, normalised.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` `(N, S, D)`: the feature layer, after the final norm if there is
            one, class token first if there is one; `pooler_output` `(N, D)`: the class token, or
            the mean of the patches without one; `hidden_states`: before the final norm.

        Raises:
            ValueError: If `pixel_values` does not have the shape of tiles, or holds no patch.
        """
        patch, channels = self.config.patch_size, self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must be (tiles, {channels}, height, width), but its shape is "
                f"{tuple(pixel_values.shape)}. Stack all tiles of the batch along the first axis."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be normalised floats, but their dtype is {pixel_values.dtype}. "
                "Only MM1Model takes uint8, since it knows the mean and standard deviation."
            )
        grid = (pixel_values.shape[2] // patch, pixel_values.shape[3] // patch)
        if min(grid) < 1:
            raise ValueError(
                f"Tiles of {tuple(pixel_values.shape[2:])} px hold no patch of {patch} px."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        hidden_states = patches.flatten(2).transpose(1, 2)  # (N, P, D)
        if self.config.use_class_token:
            class_token = self.class_embedding.expand(hidden_states.shape[0], 1, -1)
            hidden_states = torch.cat([class_token, hidden_states], dim=1)  # (N, S, D)
        hidden_states = self.pre_layernorm(hidden_states + self._positions(grid))
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.final_layernorm(hidden_states)
        pooled = hidden_states[:, 0] if self.config.use_class_token else hidden_states.mean(1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


def resize_tower(tower: PreTrainedModel, size: int | tuple[int, int]) -> None:
    """Make another tile size the native one of a vision tower.

    The position table is resampled as a forward with such tiles would, and stays so: the tower
    computes the same as before, and training goes on from there. A size that is native already
    changes nothing. The table is a new parameter afterwards, so make the optimizer, or wrap the
    model for several devices, later than this.

    Args:
        tower: `MM1VisionModel`, or the vision tower of CLIP, SigLIP or AIMv2, whose tiles must
            remain squares.
        size: Side of a tile in pixels, or height and width.

    Raises:
        ValueError: If the size does not suit the tower, or the kind of tower is unknown.

    Source: MM1, arXiv 2403.09611, section 4 (448, 560 and 672 px during fine-tuning).
    """
    config = tower.config
    height, width = _require_size(size, config)
    if (height, width) == image_height_width(config):
        return
    source_grid = patch_grid(config)
    target_grid = (height // config.patch_size, width // config.patch_size)
    num_patches = math.prod(target_grid)
    embeddings: Any = tower.get_submodule(_POSITIONED[config.model_type])
    table = getattr(embeddings, "position_embedding", None)
    if table is not None:  # AIMv2's "native" kind computes its positions and has no table
        weight = table.weight.detach()
        prefix, patches = weight.tensor_split([len(weight) - math.prod(source_grid)])
        patches = resample_positions(patches, source_grid=source_grid, target_grid=target_grid)
        table.weight = nn.Parameter(
            torch.cat([prefix, patches]), requires_grad=table.weight.requires_grad
        )
        table.num_embeddings = len(table.weight)
    if config.model_type != MM1VisionConfig.model_type:
        # What transformers' towers computed from the old size when they were built.
        num_positions = num_patches if table is None else table.num_embeddings
        position_ids = torch.arange(num_positions, device=embeddings.position_ids.device)
        embeddings.position_ids = position_ids.expand(1, -1)
        derived = {
            "image_size": height,
            "num_patches": num_patches,
            "num_positions": num_positions,
        }
        for name in derived.keys() & vars(embeddings).keys():
            setattr(embeddings, name, derived[name])
    config.image_size = height if height == width else [height, width]


def _require_size(size: int | tuple[int, int], config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of a new tile, checked against the tower's kind and patches."""
    height, width = (size, size) if isinstance(size, int) else size
    patch = config.patch_size
    if (height, width) == image_height_width(config):
        return height, width
    if config.model_type not in _POSITIONED:
        raise ValueError(
            f"The positions of a {config.model_type!r} tower cannot be resampled for good; known "
            f"are {', '.join(sorted(_POSITIONED))}. Load the tower at the size you need, and "
            "compose the model with it."
        )
    if min(height, width) < patch or height % patch or width % patch:
        near = [max(1, round(side / patch)) * patch for side in (height, width)]
        raise ValueError(
            f"An image size of {height} x {width} px is no multiple of the patch size, {patch} px: "
            f"the rest would not be seen. The nearest that is: {near[0]} x {near[1]} px."
        )
    if height != width and config.model_type != MM1VisionConfig.model_type:
        raise ValueError(
            f"An image size of {height} x {width} px is no square, but transformers' "
            f"{config.model_type!r} knows squares only. Convert the tower with mm1_hf.conversion, "
            "or choose a square."
        )
    return height, width


__all__ = ["MM1VisionModel", "resize_tower"]
