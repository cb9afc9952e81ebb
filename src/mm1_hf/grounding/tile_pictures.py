"""The tiles of a picture, drawn: where they lie on it, and what the encoder gets."""

from math import ceil
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mm1_hf.grounding.drawing import draw_regions
from mm1_hf.grounding.regions import Box
from mm1_hf.grounding.tiles import tile_views

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


def draw_tiles(
    image: Image.Image, processor: Any, *, height: int = 320, **images_kwargs
) -> Image.Image:
    """Draw the picture with the borders of its tiles, and beside it the tiles in their order.

    The tiles are the processor's own output before normalisation, padding and all, so this is what
    a model is shown. The numbers are places in `pixel_values`.

    Args:
        image: The picture; turned upright if its EXIF orientation says so, as for the model.
        processor: `MM1ImageProcessor`, or the `MM1Processor` that holds one.
        height: Height of the drawing in pixels.
        images_kwargs: Settings that override the image processor's, such as `tiling="dynamic"`.

    Returns:
        A new RGB picture.

    Raises:
        ValueError: If the settings do not allow a plan; see `MM1ImageProcessor`.
    """
    image_processor = getattr(processor, "image_processor", processor)
    upright = ImageOps.exif_transpose(image).convert("RGB")
    plan = image_processor.plan(upright.height, upright.width, images_kwargs)
    tiles = image_processor(
        images=[upright],
        do_rescale=False,
        do_normalize=False,
        return_tensors="pt",
        **images_kwargs,
    )["pixel_values"]
    return _beside(
        _with_borders(upright, plan, height=height), _sheet(tiles, height=height), height=height
    )


def _with_borders(picture: Image.Image, plan: Any, *, height: int) -> Image.Image:
    """The picture at the height of the drawing, with a numbered frame for each cut tile."""
    scale = height / picture.height
    small = picture.resize((max(1, round(picture.width * scale)), height), Image.Resampling.LANCZOS)
    boxes = {
        str(view.index): _scaled(view.visible, scale)
        for view in tile_views(plan)
        if view.kind == "tile" and view.visible is not None
    }
    return small if len(boxes) == 1 else draw_regions(small, [*boxes.values()], labels=[*boxes])


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (scale * edge for edge in (box.left, box.top, box.right, box.bottom))
    return Box(left=left, top=top, right=right, bottom=bottom)


def _sheet(tiles: torch.Tensor, *, height: int, gap: int = 6) -> Image.Image:
    """All tiles in rows, each with its number."""
    pictures = [
        Image.fromarray(tile.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
        for tile in tiles
    ]
    rows = 1 if len(pictures) <= 3 else 2 if len(pictures) <= 8 else 3
    columns = ceil(len(pictures) / rows)
    cell_height = (height - gap * (rows - 1)) // rows
    cell_width = round(cell_height * pictures[0].width / pictures[0].height)
    sheet = Image.new("RGB", (columns * (cell_width + gap) - gap, height), _PAPER)
    font = ImageFont.load_default(size=max(12.0, height / 24))
    for number, picture in enumerate(pictures):
        cell = picture.resize((cell_width, cell_height), Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(cell)
        left, top, right, bottom = draw.textbbox((4, 2), str(number), font=font)
        draw.rectangle((left - 4, top - 2, right + 4, bottom + 2), fill=_PAPER)
        draw.text((4, 2), str(number), fill=_INK, font=font)
        row, column = divmod(number, columns)
        sheet.paste(cell, (column * (cell_width + gap), row * (cell_height + gap)))
    return sheet


def _beside(left: Image.Image, right: Image.Image, *, height: int, gap: int = 24) -> Image.Image:
    drawing = Image.new("RGB", (left.width + gap + right.width, height), _PAPER)
    drawing.paste(left, (0, 0))
    drawing.paste(right, (left.width + gap, 0))
    return drawing


__all__ = ["draw_tiles"]
