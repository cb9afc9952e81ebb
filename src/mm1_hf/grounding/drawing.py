"""Regions drawn on their picture."""

from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from mm1_hf.grounding.regions import Box, Point

# Colours that remain distinct with every common colour blindness.
# Source: Okabe and Ito, "Color Universal Design", 2008, without their black, which vanishes.
_PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def draw_regions(
    image: Image.Image,
    regions: Sequence[Box | Point],
    *,
    labels: Sequence[str | None] | None = None,
    colors: Sequence[str | tuple[int, int, int]] | None = None,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None = None,
) -> Image.Image:
    """Draw boxes as frames and points as discs on a copy of a picture.

    Args:
        image: The picture; turned upright if its EXIF orientation says so, as for the model.
        regions: Boxes and points in pixels of the upright picture; what lies beyond it is not seen.
        labels: A text for each region, `None` for none.
        colors: Names or RGB of the regions, in turn; by default seven that stay distinct for the
            colour-blind.
        font: Font of the labels. Pillow's own has Latin letters only: pass one for other scripts.

    Returns:
        A new RGB picture of the upright size.

    Raises:
        ValueError: If there are not as many labels as regions, or no colours.
    """
    if labels is not None and len(labels) != len(regions):
        raise ValueError(
            f"There are {len(labels)} labels for {len(regions)} regions: give one for each, None "
            "for a region without."
        )
    palette = [_rgb(color) for color in (_PALETTE if colors is None else colors)]
    if regions and not palette:
        raise ValueError("colors is empty: give at least one colour, or leave it out.")
    picture = ImageOps.exif_transpose(image).convert("RGB")
    stroke = max(2, round(min(picture.size) / 200))
    font = font or ImageFont.load_default(size=max(12.0, min(picture.size) / 28))
    draw = ImageDraw.Draw(picture)
    names = labels if labels is not None else [None] * len(regions)
    for index, region in enumerate(regions):
        _draw_region(draw, region, color=palette[index % len(palette)], stroke=stroke)
    # Last, so that no frame runs through a label.
    for index, (region, label) in enumerate(zip(regions, names, strict=True)):
        if label:
            color = palette[index % len(palette)]
            _draw_label(draw, region, label, color=color, stroke=stroke, font=font)
    return picture


def _draw_region(
    draw: ImageDraw.ImageDraw, region: Box | Point, *, color: tuple[int, int, int], stroke: int
) -> None:
    rim = _contrast(color)
    if isinstance(region, Point):
        for radius, fill in ((3 * stroke, rim), (2.2 * stroke, color)):
            draw.ellipse(_around(region, radius), fill=fill)
        return
    # Pillow's rectangles include their last pixel, a box ends in front of it.
    left, top = round(region.left), round(region.top)
    right, bottom = max(left, round(region.right) - 1), max(top, round(region.bottom) - 1)
    draw.rectangle((left, top, right, bottom), outline=rim, width=stroke + 2)
    inner = (left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1))
    draw.rectangle(inner, outline=color, width=stroke)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    region: Box | Point,
    label: str,
    *,
    color: tuple[int, int, int],
    stroke: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Put the label above a box and right of a point; where there is no room, inside or left."""
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    width, height = right - left + 2 * stroke, bottom - top + 2 * stroke
    image_width, image_height = draw.im.size
    if isinstance(region, Box):
        x, above = region.left, region.top - height
        y = above if above >= 0 else region.top + stroke
    else:
        x, y = region.x + 4 * stroke, region.y - height / 2
        if x + width > image_width:
            x = region.x - 4 * stroke - width
    x = max(0, min(round(x), image_width - round(width)))
    y = max(0, min(round(y), image_height - round(height)))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    draw.text((x + stroke - left, y + stroke - top), label, fill=_contrast(color), font=font)


def _around(point: Point, radius: float) -> tuple[float, float, float, float]:
    return point.x - radius, point.y - radius, point.x + radius, point.y + radius


def _rgb(color: str | tuple[int, int, int]) -> tuple[int, int, int]:
    if not isinstance(color, str):
        return color
    red, green, blue, *_ = ImageColor.getrgb(color)
    return red, green, blue


def _contrast(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to see on or beside a colour (ITU-R BT.601 luma)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 128 else (255, 255, 255)


__all__ = ["draw_regions"]
