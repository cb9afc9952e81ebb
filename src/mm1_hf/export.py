"""`torch.export` of the parts: programs that run where mm1_hf is not, nor transformers.

Three programs, each with the sizes that vary in serving left open. `torch.export.save` writes one
as a `.pt2` file, `torch.export.load` reads it, and AOTInductor, ExecuTorch or the ONNX exporter
take it from there. Decoding with a cache is not among them: see the guide. The program of a sparse
decoder has an operator of transformers: import `transformers.integrations.moe` before loading it.

Letters: N tiles, K visual tokens per tile, B rows, T tokens, D width of the decoder, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel


class _See(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model: Any = model.base_model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixel_values, return_dict=True).pooler_output


class _Read(nn.Module):
    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        outputs = self.decoder(inputs_embeds=inputs_embeds, use_cache=False, return_dict=True)
        return outputs.last_hidden_state


class _Answer(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        outputs = self.model(
            input_ids=input_ids, pixel_values=pixel_values, use_cache=False, return_dict=True
        )
        return outputs.logits


def export_images(
    model: PreTrainedModel, *, size: tuple[int, int] | None = None, most_tiles: int = 64
) -> ExportedProgram:
    """Export vision tower and connector: tiles to visual tokens.

    Args:
        model: `MM1Model` or `MM1ForConditionalGeneration`, in evaluation mode.
        size: Height and width of a tile in pixels, which the program is fixed to; the tower's own
            by default.
        most_tiles: Most tiles of one call.

    Returns:
        `pixel_values` `(N, channels, height, width)`, normalised floats, to `(N, K, D)`.

    Raises:
        ValueError: If the model is in training mode.
    """
    _require_evaluation(model)
    tiles = _example_tiles(model, size)
    shapes = {"pixel_values": {0: Dim("tiles", min=1, max=most_tiles)}}
    return _export(_See(model), {"pixel_values": tiles}, shapes)


def export_decoder(
    model: PreTrainedModel, *, most_rows: int = 64, most_tokens: int | None = None
) -> ExportedProgram:
    """Export the decoder without its head and without a cache: embeddings to hidden states.

    Args:
        model: A model with a decoder, in evaluation mode.
        most_rows: Most rows of one call.
        most_tokens: Most tokens of a row; by default as many as the decoder has positions for.

    Returns:
        `inputs_embeds` `(B, T, D)` to `(B, T, D)` after the final norm; T is at least 2.

    Raises:
        ValueError: If the model is in training mode.
    """
    _require_evaluation(model)
    width = model.config.get_text_config(decoder=True).hidden_size
    embeds = torch.randn(2, 7, width, dtype=model.dtype, device=model.device)
    shapes = {
        "inputs_embeds": {
            0: Dim("rows", min=1, max=most_rows),
            1: Dim("tokens", min=2, max=most_tokens or _positions(model)),
        }
    }
    return _export(_Read(model.get_decoder()), {"inputs_embeds": embeds}, shapes)


def export_prefill(
    model: PreTrainedModel,
    *,
    most_rows: int = 64,
    most_tiles: int = 64,
    most_tokens: int | None = None,
) -> ExportedProgram:
    """Export the whole model without a cache: tokens and tiles to logits.

    The program keeps the check that there are as many placeholders as visual tokens. Rows are of
    one length, without padding.

    Args:
        model: `MM1ForConditionalGeneration`, in evaluation mode.
        most_rows: Most rows of one call.
        most_tiles: Most tiles of one call, all rows together.
        most_tokens: Most tokens of a row; by default as many as the decoder has positions for.

    Returns:
        `input_ids` `(B, T)` and `pixel_values` `(N, channels, height, width)` to logits
        `(B, T, V)`; T is at least 2.

    Raises:
        ValueError: If the model is in training mode.
    """
    _require_evaluation(model)
    tiles = _example_tiles(model, None)
    images = torch.full((2, model.config.num_image_tokens * len(tiles) // 2), _placeholder(model))
    text = torch.arange(5).expand(2, -1) + (_placeholder(model) < 5) * 5
    inputs = {
        "input_ids": torch.cat([images, text], dim=1).to(model.device),
        "pixel_values": tiles,
    }
    shapes = {
        "input_ids": {
            0: Dim("rows", min=1, max=most_rows),
            1: Dim("tokens", min=2, max=most_tokens or _positions(model)),
        },
        "pixel_values": {0: Dim("tiles", min=1, max=most_tiles)},
    }
    return _export(_Answer(model), inputs, shapes)


def _export(module: nn.Module, inputs: dict, shapes: dict) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            module.eval(), (), kwargs=inputs, dynamic_shapes=shapes, strict=False
        )


def _example_tiles(model: PreTrainedModel, size: tuple[int, int] | None) -> torch.Tensor:
    vision = model.config.vision_config
    side = vision.image_size
    height, width = size or ((side, side) if isinstance(side, int) else side)
    shape = (4, vision.num_channels, height, width)
    return torch.randn(shape, dtype=model.dtype, device=model.device)


def _placeholder(model: PreTrainedModel) -> int:
    if model.config.image_token_id is None:
        raise ValueError(
            "config.image_token_id is not set, so visual tokens have no place to go. Build the "
            "processor with MM1Processor.from_parts(tokenizer=…, config=model.config), which sets "
            "it, before the export."
        )
    return model.config.image_token_id


def _positions(model: PreTrainedModel) -> int:
    return model.config.get_text_config(decoder=True).max_position_embeddings


def _require_evaluation(model: PreTrainedModel) -> None:
    if model.training:
        raise ValueError(
            "The model is in training mode, which would be exported too. Call model.eval() first."
        )


__all__ = ["export_decoder", "export_images", "export_prefill"]
