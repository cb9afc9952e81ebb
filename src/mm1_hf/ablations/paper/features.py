"""Patches of a frozen encoder, computed once for each picture and kept on disk.

This is right only while nothing in front of the connector changes: the encoder is frozen, and the
tiles are the same. So the key of the cache holds encoder, tile size, tiling, and pictures; an axis
that changes one of them makes features of its own, every other axis reads those that are there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mm1_hf.demo.canvases import Canvas
from mm1_hf.model.configuration_mm1 import image_height_width
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
from mm1_hf.model.vision_mm1 import MM1VisionModel

_CHUNK = 256


def tiles_of(canvases: Sequence[Canvas], *, side: int, tiling: str = "none") -> torch.Tensor:
    """Tiles `(pictures, tiles, 3, side, side)`, normalised; all pictures have one size."""
    processor = MM1ImageProcessor(size={"height": side, "width": side}, tiling=tiling)
    chunks = []
    for start in range(0, len(canvases), _CHUNK):
        pictures = [canvas.pixels for canvas in canvases[start : start + _CHUNK]]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        chunks.append(pixels.unflatten(0, (len(pictures), -1)))
    return torch.cat(chunks)


@torch.inference_mode()
def write_features(
    tower: MM1VisionModel, canvases: Sequence[Canvas], path: Path, *, tiling: str
) -> None:
    """Encode pictures and save their patches `(pictures, tiles, patches, width)`, half precision.

    The class token is left out.
    """
    side, _ = image_height_width(tower.config)
    num_patches = (side // tower.config.patch_size) ** 2
    pixels = tiles_of(canvases, side=side, tiling=tiling)
    pictures, tiles = pixels.shape[:2]
    features = np.lib.format.open_memmap(
        path,
        mode="w+",
        dtype=np.float16,
        shape=(pictures, tiles, num_patches, tower.config.hidden_size),
    )
    tower.eval()
    for start in range(0, pictures, _CHUNK):
        chunk = pixels[start : start + _CHUNK]
        patches = tower(chunk.flatten(0, 1)).last_hidden_state[:, -num_patches:]
        features[start : start + len(chunk)] = patches.unflatten(0, (len(chunk), tiles)).numpy()
    features.flush()


class Features:
    """Features of all albums of one seed, read from disk where they are needed."""

    def __init__(self, folder: Path):
        self.arrays = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))
        }

    def num_tiles(self, album: str) -> int:
        """Tiles of each picture of an album."""
        return self.arrays[album].shape[1]

    def read(self, pictures: Sequence[tuple[str, int]]) -> torch.Tensor:
        """Patches `(tiles in all, patches, width)` of pictures given as album and number."""
        rows = [self.arrays[album][number] for album, number in pictures]
        return torch.from_numpy(np.concatenate(rows)).float()
