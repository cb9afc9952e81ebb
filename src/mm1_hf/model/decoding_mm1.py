"""Pictures as they come, opened and decoded: any source, any mode, to uint8 RGB.

Opening reads headers only; decoding makes the pixels. Both say which image failed, and why.
"""

import base64
import binascii
import os
import re
import urllib.request
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps

try:  # decodes JPEG files 1.5 times as fast as Pillow, with the same library inside
    import simplejpeg  # pyright: ignore[reportMissingImports]
except ImportError:
    simplejpeg = None

_URL_TIMEOUT_SECONDS = 30
_EXIF_ORIENTATION = 0x0112
_PNG_EXIF = frozenset({"exif", "Raw profile type exif"})
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_REMEDY = "Remove the image and its placeholder, or repair the file."


class ImageError(ValueError):
    """An image that cannot be used; the message says which one, what was found and what to do."""


def read_image_size(
    image: Any, *, name: str = "The image", input_data_format: str | None = None
) -> tuple[int, int]:
    """Upright height and width in pixels from an image's header, without decoding its pixels.

    Args:
        image: Whatever `MM1ImageProcessor` accepts as one image.
        name: What an error calls the image.
        input_data_format: `"channels_first"` or `"channels_last"` for arrays; guessed if `None`.

    Raises:
        ImageError: If the image cannot be opened, is empty, or its layout is unknown.
    """
    image = open_image(image, name)
    if isinstance(image, Image.Image):
        _require_pixels(image.size, f"size {image.size}", name)
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)
    _require_numbers(image, name)
    pixels = _channels_last(image, name, input_data_format)
    _require_pixels(image.shape, f"shape {tuple(image.shape)}", name)
    return int(pixels.shape[0]), int(pixels.shape[1])


def to_rgb(
    image: Any, *, name: str, do_convert_rgb: bool = True, input_data_format: str | None = None
) -> torch.Tensor:
    """Decode one opened image into uint8 RGB of shape (3, height, width), channels last in memory.

    Args:
        image: A PIL image, numpy array or torch tensor.
        name: What an error calls the image, such as `"sample 2, image 0"`.
        do_convert_rgb: If false, an image that is not RGB is an error.
        input_data_format: `"channels_first"` or `"channels_last"` for arrays; guessed if `None`.

    Raises:
        ImageError: If the image is empty, damaged, or holds values that are no pixels.
    """
    if isinstance(image, Image.Image):
        _require_pixels(image.size, f"size {image.size}", name)
        channels = image.mode
        pixels = torch.from_numpy(_decode_pil(image, name))  # shape: (height, width, 3)
    else:
        pixels, channels = _decode_array(image, name, input_data_format)
    if not do_convert_rgb and channels not in ("RGB", 3):
        _fail(name, f"has channels {channels}", "RGB is expected", "Set do_convert_rgb=True.")
    return pixels.permute(2, 0, 1)


def images_per_sample(images: Any) -> list[int] | None:
    """Number of images of each sample, or `None` for a single image or a flat list."""
    if isinstance(images, (list, tuple)) and is_nested(images):
        return [len(sample) for sample in images]
    return None


def count_images(images: Any) -> int:
    """Number of images in one image, a list, or a list per sample."""
    return sum(1 for _ in flatten_images(images))


def flatten_images(images: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and single images; arrays of four axes are lists."""
    if not isinstance(images, (list, tuple)):
        images = list(images) if _num_axes(images) == 4 else [images]
    nested = is_nested(images)
    for index, image in enumerate(images):
        if nested or _num_axes(image) == 4:
            for inner, inner_image in enumerate(image):
                yield f"sample {index}, image {inner}", inner_image
        else:
            yield f"image {index}", image


def _num_axes(image: Any) -> int | None:
    return image.ndim if isinstance(image, (np.ndarray, torch.Tensor)) else None


def is_nested(images: Iterable) -> bool:
    """Whether images come as one list per sample; lists and single images must not mix."""
    lists = [isinstance(image, (list, tuple)) for image in images]
    if not any(lists):
        return False
    if not all(lists):
        index = lists.index(False)
        raise ImageError(
            f"Entry {index} of images is a single image while others are lists. Pass either a flat "
            "list of images or one list of images per sample (an empty one for text alone)."
        )
    for sample, entries in enumerate(images):
        if any(isinstance(entry, (list, tuple)) for entry in entries):
            raise ImageError(
                f"Sample {sample} of images holds a list inside a list. At most one list of images "
                "per sample is expected."
            )
    return True


def _fail(name: str, found: str, expected: str, remedy: str) -> NoReturn:
    raise ImageError(f"{name[:1].upper()}{name[1:]} {found}, but {expected}. {remedy}")


def open_image(image: Any, name: str) -> Any:
    """Open what is not an array or a PIL image yet; reads the header only."""
    if isinstance(image, (Image.Image, np.ndarray, torch.Tensor)):
        return image
    if isinstance(image, (str, os.PathLike)):
        image = _read_bytes(image, name)
    if not isinstance(image, (bytes, bytearray, memoryview)):
        _fail(
            name,
            f"is {_short(image)} of type {type(image).__name__}",
            "a PIL image, array, tensor, path, bytes or data URI is expected",
            "Remove the image and its placeholder, or load it first.",
        )
    try:
        opened = Image.open(BytesIO(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        _fail_bomb(name, str(error))
    except (OSError, ValueError, SyntaxError) as error:
        # Pillow names the stream that it read from, by its address in memory.
        reason = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))
        _fail(name, f"is no readable picture ({reason})", "PNG, JPEG, WebP … is expected", _REMEDY)
    # Pillow itself only warns up to twice its limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.width * opened.height > limit:
        _fail_bomb(name, f"{opened.width} x {opened.height} pixels")
    return opened


def _read_bytes(source: str | os.PathLike, name: str) -> bytes:
    """Bytes behind a path, a URL, a data URI or base64 text."""
    text = os.fspath(source)
    try:
        if isinstance(text, str) and text.startswith("data:"):
            header, _, payload = text.partition(",")
            if not header.endswith(";base64"):
                _fail(name, f"is {_short(text)}", "a base64 data URI is expected", _REMEDY)
            return base64.b64decode(payload, validate=True)
        if isinstance(text, str) and text.startswith(("http://", "https://")):
            with urllib.request.urlopen(text, timeout=_URL_TIMEOUT_SECONDS) as response:
                return response.read()
        if isinstance(source, os.PathLike) or os.path.isfile(text):
            return Path(source).read_bytes()
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        expected = "an existing file, a URL, a data URI or base64 text is expected"
        _fail(name, f"is {_short(text)}", expected, "Check the path.")
    except OSError as error:
        _fail(name, f"cannot be read ({error})", "a readable file is expected", "Check the path.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fail_bomb(name: str, found: str) -> NoReturn:
    _fail(
        name,
        f"is too large ({found})",
        f"at most {Image.MAX_IMAGE_PIXELS} pixels are decoded",
        "Shrink the file, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it.",
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; from 5 on the picture lies on its side."""
    # Pillow decodes a whole PNG to look for EXIF behind its pixels. Sizes are read from headers, so
    # EXIF that stands there cannot count.
    if image.format == "PNG" and not _PNG_EXIF.intersection(image.info):
        return 1
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def _decode_pil(image: Image.Image, name: str) -> np.ndarray:
    """RGB of shape (height, width, 3), uint8 and writable."""
    try:
        orientation = _orientation(image)
        pixels = _decode_jpeg(image)
        if pixels is not None and orientation not in range(2, 9):
            return pixels
        if pixels is not None:
            image = Image.fromarray(pixels)
            image.getexif()[_EXIF_ORIENTATION] = orientation
        image.load()
        if orientation in range(2, 9):
            image = ImageOps.exif_transpose(image)
        if image.mode in _SIXTEEN_BIT_MODES or image.mode in ("I", "F"):
            values = np.array(image)
            if image.mode != "F":
                _require_range(values, 0, 65535, name)
                values = values.astype(np.uint16)
            return _decode_array(values, name, None)[0].numpy()
        if image.has_transparency_data:
            rgba = np.array(image.convert("RGBA"))
            return _decode_array(rgba, name, "channels_last")[0].numpy()
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, EOFError) as error:
        _fail(name, f"cannot be decoded ({error})", "a whole file is expected", _REMEDY)


def _decode_jpeg(image: Image.Image) -> np.ndarray | None:
    """Pixels of an unread JPEG file of bytes, or None where Pillow has to do it.

    Whatever the fast decoder does not like goes to Pillow, whose errors are the ones we explain.
    """
    file = getattr(image, "fp", None)
    if simplejpeg is None or image.format != "JPEG" or image.mode != "RGB":
        return None
    if not isinstance(file, BytesIO) or not getattr(image, "tile", None):
        return None
    try:
        return simplejpeg.decode_jpeg(file.getbuffer(), colorspace="RGB", strict=True)
    except ValueError:
        return None


def _require_pixels(sides: Iterable[int], found: str, name: str) -> None:
    if 0 in tuple(sides):
        _fail(name, f"has {found}", "at least one pixel is expected", _REMEDY)


def _require_numbers(image: Any, name: str) -> None:
    is_tensor = isinstance(image, torch.Tensor)
    if image.is_complex() if is_tensor else image.dtype.kind not in "biuf":
        _fail(name, f"has dtype {image.dtype}", "whole numbers or floats are expected", _REMEDY)


def _as_tensor(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image.detach().cpu()
    # torch lacks foreign byte orders, long doubles, and most operations on wide unsigned integers.
    if image.dtype.kind == "u" and image.dtype.itemsize > 1:
        image = image.astype(np.int64)
    elif image.dtype.kind == "f":
        image = image.astype(np.float32)
    # Contiguous and writable, as torch wants it: arrays over a picture of PIL are not writable.
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))


def _channels_last(image: Any, name: str, input_data_format: str | None) -> Any:
    """View an array or tensor as (height, width, channels)."""
    if image.ndim == 2:
        return image[:, :, None]
    shape = tuple(image.shape)
    can_lead = image.ndim == 3 and shape[0] in (1, 3, 4)
    can_trail = image.ndim == 3 and shape[2] in (1, 3, 4)
    if input_data_format is not None:
        is_first = str(getattr(input_data_format, "value", input_data_format)) == "channels_first"
        can_lead, can_trail = can_lead and is_first, can_trail and not is_first
    if not (can_lead or can_trail):
        _fail(
            name,
            f"has shape {shape}",
            "height x width, with 1, 3 or 4 channels in front or behind, is expected",
            "Pass one image per entry.",
        )
    is_tensor = isinstance(image, torch.Tensor)
    if can_lead and can_trail:
        can_lead = is_tensor
    if not can_lead:
        return image
    return image.permute(1, 2, 0) if is_tensor else image.transpose(1, 2, 0)


def _decode_array(image: Any, name: str, input_data_format: str | None) -> tuple[torch.Tensor, int]:
    """RGB of shape (height, width, 3), uint8; and the number of channels there were."""
    is_sixteen_bit = str(image.dtype).endswith("uint16")
    _require_numbers(image, name)
    pixels = _channels_last(image, name, input_data_format)
    _require_pixels(image.shape, f"shape {tuple(image.shape)}", name)
    pixels = _as_tensor(pixels)
    if pixels.dtype == torch.uint16:
        pixels = pixels.to(torch.int32)
    if pixels.dtype == torch.bool:
        pixels = pixels.to(torch.uint8) * 255
    elif pixels.is_floating_point():
        pixels = _decode_floats(pixels, name)
    elif is_sixteen_bit:
        pixels = ((pixels * 255 + 32767) // 65535).to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        _require_range(pixels, 0, 255, name)
        pixels = pixels.to(torch.uint8)
    num_channels = pixels.shape[2]
    if num_channels == 4:
        alpha = pixels[:, :, 3:].to(torch.int32)
        over_white = pixels[:, :, :3] * alpha + 255 * (255 - alpha)
        pixels = ((over_white + 127) // 255).to(torch.uint8)
    return pixels.expand(-1, -1, 3).contiguous(), num_channels


def _decode_floats(pixels: torch.Tensor, name: str) -> torch.Tensor:
    if not torch.isfinite(pixels).all():
        _fail(name, "contains NaN or infinite values", "finite pixels are expected", _REMEDY)
    _require_range(pixels, 0, 255, name)
    scale = 255.0 if pixels.max() <= 1 else 1.0
    return (pixels.to(torch.float32) * scale).round().to(torch.uint8)


def _require_range(values: Any, low: int, high: int, name: str) -> None:
    found_low, found_high = values.min().item(), values.max().item()
    if found_low < low or found_high > high:
        _fail(
            name,
            f"has values from {found_low:g} to {found_high:g}",
            f"values from {low} to {high} are expected",
            "Pass pixels that are not normalised yet.",
        )
