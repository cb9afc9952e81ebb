"""Draws the pictures of "How MM1 sees an image" with the library's own code.

    python docs/pictures/draw.py [FOLDER]

writes them into FOLDER, by default beside this file. The photograph, "china.jpg", comes with
scikit-learn; it is by lou_h ("Summer Palace"), CC BY 2.0.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from mm1_hf import MM1ImageProcessor
from mm1_hf.grounding import draw_tiles

SIDE = 378
INK, PAPER = (40, 40, 40), (255, 255, 255)
TEXT, IMAGE, PAD = (86, 180, 233), (230, 159, 0), (225, 225, 225)


def main(folder: Path) -> None:
    """Draw all of them."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    processor = MM1ImageProcessor(size=SIDE)
    tall = photo.crop((150, 0, 350, photo.height))
    draw_tiles(photo, processor, tiling="none").save(folder / "none.jpg", quality=88)
    draw_tiles(photo, processor, tiling="static").save(folder / "static.jpg", quality=88)
    draw_tiles(photo, processor, tiling="dynamic").save(folder / "dynamic.jpg", quality=88)
    draw_tiles(tall, processor, tiling="dynamic").save(folder / "dynamic-tall.jpg", quality=88)
    draw_patches(photo).save(folder / "patches.jpg", quality=88)
    draw_pooling(patches=27, tokens=12).save(folder / "pooling.png")
    draw_sequence().save(folder / "sequence.png")


def draw_patches(photo: Image.Image, *, patch: int = 14, scale: float = 1.2) -> Image.Image:
    """The 27 x 27 patches of one tile, and the 12 x 12 tokens that they become."""
    tile = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    side = round(SIDE * scale)
    patches = tile.resize((side, side), Image.Resampling.LANCZOS)
    drawing = Image.new("RGB", (2 * side + 48, side), PAPER)
    for place, cells in ((0, SIDE // patch), (side + 48, 12)):
        drawing.paste(patches, (place, 0))
        draw = ImageDraw.Draw(drawing)
        for line in np.linspace(0, side - 1, cells + 1).round().astype(int):
            draw.line((place + int(line), 0, place + int(line), side), fill=PAPER)
            draw.line((place, int(line), place + side, int(line)), fill=PAPER)
    return drawing


def draw_pooling(*, patches: int, tokens: int, cell: int = 26) -> Image.Image:
    """Which patches of a row each token averages: bins overlap where 12 does not divide 27."""
    drawing = Image.new("RGB", (patches * cell + 1, 6 * cell), PAPER)
    draw = ImageDraw.Draw(drawing)
    for number in range(patches):
        draw.rectangle((number * cell, 0, (number + 1) * cell, cell), fill=PAD, outline=INK)
    for token in range(tokens):
        start = token * patches // tokens
        end = -(-(token + 1) * patches // tokens)
        top = cell * (2 + token % 3) + 8
        box = (start * cell + 2, top, end * cell - 2, top + cell - 6)
        draw.rectangle(box, fill=(IMAGE, TEXT, (0, 158, 115))[token % 3], outline=INK)
        middle = (box[0] + box[2]) / 2
        draw.text(
            (middle, (box[1] + box[3]) / 2), str(token), fill=INK, font=_font(15), anchor="mm"
        )
    return drawing


def draw_sequence(*, cell: int = 30) -> Image.Image:
    """A caption as the decoder sees it: image tokens without labels, then text with labels."""
    words = ["image"] * 6 + ["…"] + ["image"] * 2 + ["A", "photo", "of", "a", "palace", "</s>"]
    drawing = Image.new("RGB", (1 + 54 * len(words), 3 * cell + 1), PAPER)
    draw = ImageDraw.Draw(drawing)
    for number, word in enumerate(words):
        left, is_image = number * 54, word in ("image", "…")
        fill = IMAGE if is_image else TEXT
        draw.rectangle((left, 0, left + 50, cell), fill=fill, outline=INK)
        _center(draw, (left + 25, cell / 2), word)
        draw.rectangle(
            (left, 2 * cell, left + 50, 3 * cell), fill=PAD if is_image else TEXT, outline=INK
        )
        _center(draw, (left + 25, 2.5 * cell), "-100" if is_image else word)
    return drawing


def _center(draw: ImageDraw.ImageDraw, place: Sequence[float], text: str) -> None:
    draw.text(tuple(place), text, fill=INK, font=_font(14), anchor="mm")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
