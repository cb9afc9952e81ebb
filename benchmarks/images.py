"""How fast do pictures become tiles, against transformers' PIL processors, and how exactly?

Photographs (scikit-learn's, at several sizes) and drawings, one CPU thread; the least of several
rounds. `tiles_float` and `tiles_uint8`: five tiles of 378 px from decoded pictures, against
LlavaNext's processor, which makes five as well. `jpeg_378`: from the bytes of a JPEG file to one
picture of 378 px, against Pillow and CLIP's processor; simplejpeg is used where it is installed.
`within_one_step`: share of 8-bit values at most one step from Pillow's bicubic resize of the same
picture, for the worst tiling. A figure gives the seconds in which a million random sizes are
assigned to grids.
"""

import io
import random
from collections.abc import Callable

import numpy as np
from harness import cpu_seconds, interleaved, print_result, quick_asked
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from mm1_hf import MM1ImageProcessor
from mm1_hf.model import decoding_mm1
from mm1_hf.model.tiling_mm1 import choose_grid

TILE = 378
AS_BYTES = {"do_rescale": False, "do_normalize": False}


def make_drawing(width: int, height: int, seed: int) -> Image.Image:
    """Saturated lines, boxes and letters on white, where filters overshoot most."""
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        ends = [rng.randrange(width), rng.randrange(height)] * 2
        ends[2:] = [rng.randrange(width), rng.randrange(height)]
        color = tuple(rng.choice((0, 255)) for _ in range(3))
        draw.line(ends, fill=color, width=rng.randint(1, 6))
        draw.text(ends[:2], "MM1 seven", fill="black")
    return image


def make_pictures() -> dict[str, list[Image.Image]]:
    """Photographs and drawings of 0.15 to 1.6 megapixels, upright and wide."""
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    photographs = [
        photograph.resize(size, Image.Resampling.LANCZOS)
        for photograph in whole
        for size in ((640, 427), (1280, 854), (854, 1280), (480, 320))
    ]
    sizes = ((640, 480), (1000, 1400), (1600, 1000), (500, 500))
    drawings = [make_drawing(*size, seed) for seed, size in enumerate(sizes)]
    return {"photographs": photographs, "drawings": drawings}


def as_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()


def share_within_one_step(pictures: list[Image.Image], tiling: str) -> float:
    """Share of values of all tiles that Pillow, resizing and cutting alike, makes to one step."""
    ours = MM1ImageProcessor(size=TILE, tiling=tiling, **AS_BYTES)
    near = total = 0
    for picture in pictures:
        plan = ours.plan(picture.height, picture.width)
        made = ours(picture, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        expected = [paint(picture, plan.canvas, (plan.canvas_width, plan.canvas_height))]
        expected = [expected[0].crop((b.left, b.top, b.right, b.bottom)) for b in plan.tile_boxes]
        if plan.overview is not None:
            overview = paint(picture, plan.overview, (TILE, TILE))
            place = 0 if plan.overview_place == "first" else len(expected)
            expected.insert(place, overview)
        distance = np.abs(made.astype(int) - np.stack([np.array(tile) for tile in expected]))
        near, total = near + int((distance <= 1).sum()), total + distance.size
    return near / total


def paint(picture: Image.Image, placement, size: tuple[int, int]) -> Image.Image:
    mean = tuple(round(255 * value) for value in MM1ImageProcessor.image_mean)
    canvas = Image.new("RGB", size, mean)
    resized = picture.resize((placement.width, placement.height), Image.Resampling.BICUBIC)
    canvas.paste(resized, (placement.left, placement.top))
    return canvas


def contestants(pictures: list[Image.Image]) -> dict[str, Callable[[], object]]:
    llava_next = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[[2 * TILE, 2 * TILE]],
    )
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}
    )
    static = MM1ImageProcessor(size=TILE, tiling="static")
    single = MM1ImageProcessor(size=TILE, resize_policy="crop")
    files = [as_jpeg(picture) for picture in pictures]

    def one_by_one(work: Callable[[object], object], inputs: list) -> Callable[[], object]:
        return lambda: [work(entry) for entry in inputs]

    def clip_from_bytes(file: bytes) -> object:
        return clip(Image.open(io.BytesIO(file)).convert("RGB"), return_tensors="pt")

    assert llava_next(pictures[0], return_tensors="pt")["pixel_values"].shape[1] == 5
    return {
        "llava_next": one_by_one(lambda p: llava_next(p, return_tensors="pt"), pictures),
        "tiles_float": one_by_one(static, pictures),
        "tiles_uint8": one_by_one(lambda p: static(p, **AS_BYTES), pictures),
        "clip_from_bytes": one_by_one(clip_from_bytes, files),
        "jpeg_378": one_by_one(single, files),
        "jpeg_378_uint8": one_by_one(lambda f: single(f, **AS_BYTES), files),
    }


def seconds_for_sizes(number: int) -> float:
    """CPU seconds in which `number` random sizes get their grids of 672-px tiles."""
    rng = random.Random(0)
    sizes = [(rng.randint(1, 20_000), rng.randint(1, 20_000)) for _ in range(number)]

    def choose() -> None:
        for height, width in sizes:
            choose_grid(height, width, tile_height=672, tile_width=672)

    return cpu_seconds(choose)


def main() -> None:
    quick = quick_asked(__doc__)
    pictures = make_pictures()
    decoded = [picture for kind in pictures.values() for picture in kind]
    seconds = interleaved(contestants(decoded), rounds=5 if quick else 20, summary=min)
    milliseconds = {name: 1000 * spent / len(decoded) for name, spent in seconds.items()}
    for name, spent in milliseconds.items():
        print(f"{name:>16}: {spent:6.2f} ms per picture")
    within = {
        f"{kind}_{tiling}": share_within_one_step(some, tiling)
        for kind, some in pictures.items()
        for tiling in ("none", "static", "dynamic")
    }
    number = 10**5 if quick else 10**6
    print_result(
        "images",
        ratios={
            "tiles_float": round(milliseconds["llava_next"] / milliseconds["tiles_float"], 2),
            "tiles_uint8": round(milliseconds["llava_next"] / milliseconds["tiles_uint8"], 2),
            "jpeg_378": round(milliseconds["clip_from_bytes"] / milliseconds["jpeg_378"], 2),
            "within_one_step": round(min(within.values()), 5),
        },
        figures={
            "milliseconds": {name: round(spent, 3) for name, spent in milliseconds.items()},
            "within_one_step": {name: round(share, 5) for name, share in within.items()},
            "jpeg_decoder": "Pillow" if decoding_mm1.simplejpeg is None else "simplejpeg",
            "seconds_for_a_million_sizes": round(seconds_for_sizes(number) * 10**6 / number, 3),
            "megapixels": round(float(np.mean([p.width * p.height for p in decoded])) / 1e6, 2),
        },
        packages=("torch", "transformers", "pillow"),
    )


if __name__ == "__main__":
    main()
