"""Pictures of examples: decoded when they are shown, told apart by their content, kept small."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image as PILImage

from mm1_hf.data.html_page import html_picture
from mm1_hf.model.decoding_mm1 import open_image, to_rgb

# Decoded pictures kept between batches, so that demonstrations are not decoded for each query. The
# number is our choice: a thousand pictures of 400 x 600.
CACHE_BYTES = 720 * 2**20


class Shown(NamedTuple):
    """A decoded picture.

    Attributes:
        picture: Upright, in RGB, without transparency: the pixels that the processor would see.
        hashes: What it is told apart by; see `Pictures`.
    """

    picture: PILImage.Image
    hashes: frozenset[str]


class Pictures:
    """Decodes pictures, and keeps the last ones within a bound.

    Two pictures are the same if they share a hash: that of their files' bytes, or that of their
    decoded pixels. So copies are found under other names, with other metadata and in another
    lossless format. A copy that was scaled or compressed with loss has other pixels, and is another
    picture.

    Args:
        limit: Most bytes of decoded pixels to keep.
    """

    def __init__(self, *, limit: int = CACHE_BYTES):
        self.limit = limit
        self._kept: OrderedDict[str, Shown] = OrderedDict()
        self._bytes = 0

    def show(self, image: Any, *, name: str) -> Shown:
        """Decode one picture.

        Args:
            image: A path, the bytes of an image file, or a PIL image.
            name: What an error calls it.

        Raises:
            ValueError: (`ImageError`) If it cannot be decoded; says why.
        """
        key = None
        if isinstance(image, (str, os.PathLike)) and os.path.isfile(image):
            key = f"path {os.path.abspath(image)} {os.stat(image).st_mtime_ns}"
            if (kept := self._recall(key)) is not None:
                return kept
            image = Path(image).read_bytes()
        hashes = set()
        if isinstance(image, (bytes, bytearray, memoryview)):
            hashes.add(f"file {hashlib.sha256(image).hexdigest()}")
            key = key or next(iter(hashes))
            if (kept := self._recall(key)) is not None:
                return kept
        pixels = to_rgb(open_image(image, name), name=name)  # shape: (3, height, width)
        rows = pixels.permute(1, 2, 0).contiguous().numpy()
        content = hashlib.sha256(f"{rows.shape[0]} x {rows.shape[1]}".encode())
        content.update(rows.tobytes())
        hashes.add(f"pixels {content.hexdigest()}")
        shown = Shown(PILImage.fromarray(rows), frozenset(hashes))
        if key is not None:
            self._keep(key, shown)
        return shown

    def _recall(self, key: str) -> Shown | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _keep(self, key: str, shown: Shown) -> None:
        self._kept[key] = shown
        self._bytes += _num_bytes(shown)
        while self._bytes > self.limit:
            self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])


def _num_bytes(shown: Shown) -> int:
    return 3 * shown.picture.width * shown.picture.height


def thumbnail(picture: PILImage.Image, *, side: int) -> str:
    """A small copy as a data URI."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    return html_picture(picture)
