"""What MM1 modules share: the flags transformers reads, plain attention, position resampling."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel


class MM1PreTrainedModel(PreTrainedModel):
    """Base class of every MM1 model: tells transformers what the models support."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Experts implementation where none is asked for; None means transformers' choice.
    _default_experts_implementation: str | None = None

    # transformers decides both by searching this class's source file for attention and expert code.
    # Ours stands in the files of the parts, so the search would wrongly answer "no".
    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """The implementation asked for, or the model's own default."""
        return super().get_correct_experts_implementation(
            requested_experts or self._default_experts_implementation
        )


def eager_bidirectional_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention that also returns its weights; the soft-max runs in fp32."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling  # (N, H, S, S)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights  # (N, S, H, D / H)


def resample_positions(
    table: torch.Tensor, *, source_grid: tuple[int, int], target_grid: tuple[int, int]
) -> torch.Tensor:
    """Resample a learned position table from one patch grid to another.

    Bicubic, in fp32 whatever the dtype of the table; an exact no-op when the grids are equal. MM1
    interpolates its position embeddings for high resolution but does not name the kernel: bicubic
    is our choice, and the common practice.

    Args:
        table: `(rows * columns, width)` of the source grid, row by row.
        source_grid: Rows and columns of the table.
        target_grid: Rows and columns wanted.

    Returns:
        `(target rows * target columns, width)`.

    Source: MM1, arXiv 2403.09611, section 4 (interpolation during fine-tuning).
    """
    if source_grid == target_grid:
        return table
    rows, columns = source_grid
    grid = table.float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    grid = F.interpolate(grid, size=target_grid, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


__all__ = ["MM1PreTrainedModel", "eager_bidirectional_attention", "resample_positions"]
