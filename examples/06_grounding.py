"""Ask about a region, read regions from an answer, find them on the tiles, and draw them."""

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from mm1_hf import MM1ImageProcessor
from mm1_hf.grounding import (
    Box,
    Point,
    draw_regions,
    find_regions,
    format_box,
    parse_boxes,
    tile_views,
)

picture = Image.new("RGB", (640, 480), "white")
pen = ImageDraw.Draw(picture)
pen.rectangle((80, 96, 239, 287), fill="firebrick")
pen.ellipse((352, 192, 543, 383), fill="steelblue")
size = {"height": picture.height, "width": picture.width}

# Into the prompt: pixels become text.
asked = Box(left=80, top=96, right=240, bottom=288)
print(f"What is at {format_box(asked, **size)}?")

# Out of the answer: text becomes pixels, with its place in the text; what is faulty is named.
answer = "A square [125, 200, 375, 600], a ball [550, 400, 850, 800], and [900, 1, 100]."
for found in find_regions(answer, **size):
    print(repr(answer[found.start : found.end]), found.region or found.faults)
boxes = parse_boxes(answer, **size)
assert boxes[0] == asked

# What the model saw of it: the overview, and a part on each of two tiles.
processor = MM1ImageProcessor(size=336, tiling="static")
ball = boxes[1]
for view in tile_views(processor.plan(**size)):
    part = view.to_tile(ball)
    if part is not None:
        print(f"tile {view.index} ({view.kind}):", part)
        assert view.to_image(part).intersection(ball) is not None

drawn = draw_regions(picture, [*boxes, Point(x=448, y=288)], labels=["square", "ball", "centre"])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "regions.png")
    drawn.save(path)
    print(f"drawn: {drawn.width} x {drawn.height} px, {path.stat().st_size:,d} bytes")
