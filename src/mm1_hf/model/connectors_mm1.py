"""`MM1Connector`: patch tokens of a tile to few visual tokens in the decoder's width.

MM1's finding is that the number of visual tokens and the resolution matter, the connector's type
hardly. A new connector is one class that takes the configuration, plus one entry in `CONNECTORS`;
if it keeps weights per patch, a method `resize_grid` resamples them.

Letters: N tiles, P = rows * columns patches, K visual tokens, Dv and Dt the widths of the vision
tower and the decoder, C width inside the connector.

Source: MM1, arXiv 2403.09611, section 3.1.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .base_mm1 import (
    MM1PreTrainedModel,
    eager_bidirectional_attention,
    resample_positions,
)
from .configuration_mm1 import MM1ConnectorConfig


def _pool_to_square(
    hidden_states: torch.Tensor, *, grid: tuple[int, int], num_tokens: int
) -> torch.Tensor:
    """Average `(N, rows * columns, D)` into a square grid of tokens `(N, K, D)`, row by row.

    Grids that do not divide (27 to 12) are pooled with overlapping bins, as
    `torch.nn.AdaptiveAvgPool2d` defines them.
    """
    side = math.isqrt(num_tokens)
    channels_first = hidden_states.unflatten(1, grid).permute(0, 3, 1, 2)  # (N, D, rows, columns)
    pooled = F.adaptive_avg_pool2d(channels_first, (side, side))
    return pooled.flatten(2).transpose(1, 2).contiguous()


class AveragePool(nn.Module):
    """Average pooling to a square grid, then one linear layer.

    Source: MM1, arXiv 2403.09611, section 3.1.
    """

    def __init__(self, config: MM1ConnectorConfig):
        super().__init__()
        self.num_tokens = config.num_image_tokens
        self.linear = nn.Linear(config.vision_hidden_size, config.text_hidden_size)

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(N, P, Dv)` to `(N, K, Dt)`."""
        return self.linear(_pool_to_square(patches, grid=grid, num_tokens=self.num_tokens))


class AttentionPool(nn.Module):
    """Learned queries that attend to the patches.

    MM1 publishes the idea (K learned queries, cross-attention); the norm in front of the keys, the
    width and the single layer are our choice. Order-free: permuting the patches changes nothing.

    Source: MM1, arXiv 2403.09611, section 3.1.
    """

    def __init__(self, config: MM1ConnectorConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.num_key_value_groups = 1
        self.queries = nn.Parameter(torch.empty(config.num_image_tokens, config.hidden_size))
        self.norm = nn.LayerNorm(config.vision_hidden_size, eps=config.layer_norm_eps)
        self.k_proj = nn.Linear(config.vision_hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.vision_hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.text_hidden_size)

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(N, P, Dv)` to `(N, K, Dt)`."""
        patches = self.norm(patches)
        per_head = (*patches.shape[:-1], -1, self.head_dim)
        key = self.k_proj(patches).view(per_head).transpose(1, 2)  # (N, H, P, C / H)
        value = self.v_proj(patches).view(per_head).transpose(1, 2)
        query = self.queries.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)  # (H, K, C / H)
        query = query.expand(patches.shape[0], -1, -1, -1)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_bidirectional_attention
        )
        tokens, _ = attention(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.o_proj(tokens.flatten(2).contiguous())


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the mean over all patches."""

    def __init__(self, *, channels: int, reduced_channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, reduced_channels)
        self.fc2 = nn.Linear(reduced_channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(N, rows, columns, C)` to the same shape."""
        mean = hidden_states.mean(dim=(1, 2), keepdim=True)  # (N, 1, 1, C)
        return hidden_states * self.fc2(F.silu(self.fc1(mean))).sigmoid()


class BottleneckBlock(nn.Module):
    """Residual block of the C-Abstractor: 1x1, 3x3 depthwise, squeeze-and-excite, 1x1.

    Channels stand last, so that 1x1 convolutions are linear layers and the layer norms over
    channels are plain ones. The squeeze-and-excite width comes from the block's input, as in
    RegNet.

    Source: Honeybee, arXiv 2312.06742, appendix; RegNetY bottleneck with SiLU and layer norms.
    """

    def __init__(self, *, in_channels: int, channels: int, eps: float):
        super().__init__()
        self.conv1 = nn.Linear(in_channels, channels, bias=False)
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.se = SqueezeExcitation(channels=channels, reduced_channels=round(in_channels / 4))
        self.conv3 = nn.Linear(channels, channels, bias=False)
        self.norm3 = nn.LayerNorm(channels, eps=eps)
        self.changes_width = in_channels != channels
        if self.changes_width:
            self.shortcut = nn.Linear(in_channels, channels, bias=False)
            self.shortcut_norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(N, rows, columns, C in)` to `(N, rows, columns, C)`."""
        branch = F.silu(self.norm1(self.conv1(hidden_states)))
        branch = self.conv2(branch.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        branch = self.se(F.silu(self.norm2(branch)))
        branch = self.norm3(self.conv3(branch))
        if self.changes_width:
            hidden_states = self.shortcut_norm(self.shortcut(hidden_states))
        return F.silu(hidden_states + branch)


class CAbstractor(nn.Module):
    """Convolutional mapping that keeps locality: blocks, pooling to a square grid, blocks, MLP.

    Source: Honeybee, arXiv 2312.06742, section 3; MM1 uses it with 144 tokens.
    """

    def __init__(self, config: MM1ConnectorConfig):
        super().__init__()
        self.num_tokens = config.num_image_tokens
        self.side = math.isqrt(config.num_image_tokens)
        self.grid = tuple(config.patch_grid)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.position_embedding = nn.Parameter(
            torch.empty(math.prod(self.grid), config.vision_hidden_size)
        )
        widths = [config.vision_hidden_size] + [width] * (2 * config.depth)
        blocks = [
            BottleneckBlock(in_channels=before, channels=after, eps=eps)
            for before, after in pairwise(widths)
        ]
        self.stage1 = nn.Sequential(*blocks[: config.depth])
        self.stage2 = nn.Sequential(*blocks[config.depth :])
        self.readout = _mlp(
            in_features=width,
            out_features=config.text_hidden_size,
            depth=config.mlp_depth,
            activation=nn.SiLU,
        )

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(N, P, Dv)` to `(N, K, Dt)`; positions are resampled if `grid` is not the native one."""
        positions = resample_positions(
            self.position_embedding, source_grid=self.grid, target_grid=grid
        )
        hidden_states = self.stage1((patches + positions).unflatten(1, grid))
        hidden_states = _pool_to_square(
            hidden_states.flatten(1, 2), grid=grid, num_tokens=self.num_tokens
        )
        hidden_states = self.stage2(hidden_states.unflatten(1, (self.side, self.side)))
        return self.readout(hidden_states.flatten(1, 2).contiguous())

    def resize_grid(self, grid: tuple[int, int]) -> None:
        """Resample the positions for good: `grid` becomes the native one."""
        positions = resample_positions(
            self.position_embedding.detach(), source_grid=self.grid, target_grid=grid
        )
        self.position_embedding = nn.Parameter(
            positions, requires_grad=self.position_embedding.requires_grad
        )
        self.grid = grid


class MLP(nn.Module):
    """One token per patch through an MLP, as in LLaVA-1.5 (arXiv 2310.03744)."""

    def __init__(self, config: MM1ConnectorConfig):
        super().__init__()
        self.layers = _mlp(
            in_features=config.vision_hidden_size,
            out_features=config.text_hidden_size,
            depth=config.mlp_depth,
            activation=nn.GELU,
        )

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(N, P, Dv)` to `(N, P, Dt)`."""
        return self.layers(patches)


def _mlp(
    *, in_features: int, out_features: int, depth: int, activation: type[nn.Module]
) -> nn.Sequential:
    """`depth` linear layers with an activation between them."""
    layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
    for _ in range(depth - 1):
        layers += [activation(), nn.Linear(out_features, out_features)]
    return nn.Sequential(*layers)


CONNECTORS: dict[str, type[nn.Module]] = {
    "average_pool": AveragePool,
    "attention_pool": AttentionPool,
    "c_abstractor": CAbstractor,
    "mlp": MLP,
}


def build_connector(config: MM1ConnectorConfig) -> nn.Module:
    """Build the connector that `config.connector_type` names.

    Raises:
        ValueError: If the name is not in `CONNECTORS`, or a shared number is missing.
    """
    if config.connector_type not in CONNECTORS:
        raise ValueError(
            f"Unknown connector_type {config.connector_type!r}: known are "
            f"{', '.join(sorted(CONNECTORS))}. Add your own with CONNECTORS[name] = YourClass."
        )
    shared = ("vision_hidden_size", "text_hidden_size", "patch_grid")
    missing = [name for name in shared if getattr(config, name) is None]
    if missing:
        raise ValueError(
            f"MM1ConnectorConfig lacks {', '.join(missing)}. MM1Config fills them in from its "
            "neighbours; set them yourself for a connector that stands alone."
        )
    return CONNECTORS[config.connector_type](config)


class MM1Connector(MM1PreTrainedModel):
    """Joins a vision tower to a decoder: patch tokens in, visual tokens out.

    `connector_type` chooses one of `CONNECTORS`; every one emits the same number of tokens for each
    tile, whatever its resolution, except `"mlp"`, which keeps one token per patch.
    """

    config: MM1ConnectorConfig
    main_input_name = "hidden_states"
    input_modalities = ("image",)

    def __init__(self, config: MM1ConnectorConfig):
        super().__init__(config)
        self.projector = build_connector(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, AttentionPool):
            init.normal_(module.queries, std=std)
        elif isinstance(module, CAbstractor):
            init.trunc_normal_(module.position_embedding, std=std)

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Map patch tokens to visual tokens.

        Args:
            hidden_states: `(N, P, Dv)`, row by row, without class tokens.
            grid: Rows and columns of patches; `None` means `config.patch_grid`.

        Returns:
            `(N, K, Dt)`.

        Raises:
            ValueError: If the number of patches or their width is not what was expected.
        """
        if grid is None:
            grid = (self.config.patch_grid[0], self.config.patch_grid[1])
        expected = (math.prod(grid), self.config.vision_hidden_size)
        if hidden_states.ndim != 3 or tuple(hidden_states.shape[1:]) != expected:
            raise ValueError(
                f"The connector expects (tiles, {expected[0]}, {expected[1]}) for a patch grid of "
                f"{grid}, but received {tuple(hidden_states.shape)}. Drop class tokens first, and "
                "pass the grid for tiles of another resolution."
            )
        return self.projector(hidden_states, grid)

    def resize_grid(self, grid: tuple[int, int]) -> None:
        """Make another patch grid the native one.

        The outputs stay what they were; with `"mlp"`, which keeps one token per patch, the
        configured number of tokens follows. Make the optimizer later than this.

        Args:
            grid: Rows and columns of patches.
        """
        if tuple(grid) == tuple(self.config.patch_grid):
            return
        resize = getattr(self.projector, "resize_grid", None)
        if resize is not None:
            resize(tuple(grid))
        self.config.patch_grid = list(grid)
        if self.config.connector_type == "mlp":
            self.config.num_image_tokens = math.prod(grid)


__all__ = ["CONNECTORS", "MM1Connector", "build_connector"]
