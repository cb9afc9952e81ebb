import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm1_hf import MM1ImageProcessor
from mm1_hf.grounding import draw_tiles

ROOT = Path(__file__).resolve().parents[2]
RED, BLUE = (220, 30, 30), (30, 30, 220)


@pytest.fixture
def halves():
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (80, 60), RED)
    picture.paste(BLUE, (40, 0, 80, 60))
    return picture


def middle(drawing: Image.Image, x: float, y: float) -> np.ndarray:
    return np.asarray(drawing.getpixel((round(x), round(y))))


def test_a_tile_shows_its_part_of_the_picture(halves):
    drawing = draw_tiles(halves, MM1ImageProcessor(size=28), tiling="static", height=120)
    width = drawing.width - 160 - 24  # the picture at this height, and the gap
    cell = (width - 2 * 6) / 3  # five tiles in two rows of three
    left, second, row = 160 + 24, 160 + 24 + cell + 6, 120 / 4
    assert np.allclose(middle(drawing, second + 0.8 * cell, row), RED, atol=3)  # tile 1
    assert np.allclose(middle(drawing, left + 2 * (cell + 6) + 0.8 * cell, row), BLUE, atol=3)  # 2
    assert np.allclose(middle(drawing, left + 0.8 * cell, 3 * row), RED, atol=3)  # tile 3
    assert np.allclose(middle(drawing, second + 0.8 * cell, 3 * row), BLUE, atol=3)  # tile 4


def test_the_picture_keeps_its_shape_and_its_owner_keeps_the_picture(halves):
    before = halves.copy()
    drawing = draw_tiles(halves, MM1ImageProcessor(size=28, tiling="none"), height=90)
    assert (drawing.width, drawing.height) == (120 + 24 + 90, 90)
    assert halves == before


def test_the_pictures_of_the_documentation_are_what_the_code_draws(tmp_path, monkeypatch):
    script = ROOT / "docs" / "pictures" / "draw.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    committed = {file.name for file in script.parent.iterdir() if file.suffix != ".py"}
    assert committed == {file.name for file in tmp_path.iterdir()}
    for name in sorted(committed):
        with Image.open(tmp_path / name) as drawn, Image.open(script.parent / name) as kept:
            assert drawn.size == kept.size
            difference = np.asarray(drawn.convert("L"), int) - np.asarray(kept.convert("L"), int)
            assert np.abs(difference).mean() < 2, f"draw {name} again: python docs/pictures/draw.py"
