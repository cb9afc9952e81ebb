"""Pixels: any picture becomes tiles of one size, as uint8 or as normalised floats.

One torch-only back end. transformers knows two (torchvision and PIL) whose pixels differ; ours is
registered under both names, needs no torchvision, and stays within one step of 255 of Pillow.
"""

import base64
import binascii
import os
import urllib.request
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .tiling_mm1 import (
    PAD_PLACES,
    RESIZE_POLICIES,
    TILINGS,
    Placement,
    TilePlan,
    plan_tiles,
    require_name,
)

# Source: OpenAI's CLIP, used by DFN's ViT-H/14, the public stand-in for MM1's encoder.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_URL_TIMEOUT_SECONDS = 30
_EXIF_ORIENTATION = 0x0112
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_REMEDY = "Remove the image and its placeholder, or repair the file."


class MM1ImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `MM1ImageProcessor` beyond transformers' own.

    tiling (`str`, *optional*, defaults to `"none"`):
        `"none"` (one tile) or `"static"` (MM1's overview and 2x2 quarters).
    resize_policy (`str`, *optional*, defaults to `"stretch"`):
        `"stretch"`, `"crop"` or `"pad"`; see `place_image`.
    pad_place (`str`, *optional*, defaults to `"center"`):
        Where `"pad"` puts the image: `"center"` or `"top_left"`.
    pad_color (`tuple[int, int, int]`, *optional*):
        RGB of the padding, 0 to 255. By default the image mean, which is zero after normalisation.
    """

    tiling: str | None
    resize_policy: str | None
    pad_place: str | None
    pad_color: list[int] | tuple[int, ...] | None


class ImageError(ValueError):
    """An image that cannot be used; the message says which one, what was found and what to do."""


class MM1ImageProcessor(BaseImageProcessor):
    """Turns images into tiles.

    Accepts one image, a list of images, or one list per sample. An image is a PIL image of any
    mode, a numpy array or torch tensor (height x width, height x width x channels, or channels x
    height x width; uint8, bool, uint16, other whole numbers from 0 to 255, or floats), a path, the
    bytes of a file, a data URI, a URL, or base64 text.

    What happens to a picture that is not plain 8-bit RGB (our choices): the EXIF orientation is
    applied; transparent pixels are put on white; 16 bits become 8 by division; of an animated file
    the first frame is taken (of an opened PIL image the frame it shows); floats are read as 0 to 1
    if none exceeds 1, else as 0 to 255. An array whose first and last axis could both be channels
    is read as channels-last from numpy and as channels-first from torch; `input_data_format`
    overrides.

    Returns a `BatchFeature` with `pixel_values` of shape (tiles of all images, 3, tile height, tile
    width), float32 or, with `do_rescale=False, do_normalize=False`, uint8; and `num_tiles`, a list
    with the tiles of each image.

    Args:
        size: Height and width of a tile in pixels; an integer means a square.
        tiling, resize_policy, pad_place, pad_color: See `MM1ImageProcessorKwargs`.
        image_mean, image_std: Per channel, on the scale of 0 to 1; OpenAI CLIP's by default.
        do_resize: If false, every image must already have the size of a tile.
        do_rescale, rescale_factor: Multiply by 1/255.
        do_normalize: Subtract the mean, divide by the standard deviation.
        do_convert_rgb: If false, an image that is not RGB is an error.
    """

    valid_kwargs = MM1ImageProcessorKwargs
    model_input_names: ClassVar = ["pixel_values"]

    size: ClassVar = {"height": 378, "width": 378}
    resample = PILImageResampling.BICUBIC
    image_mean = CLIP_MEAN
    image_std = CLIP_STD
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    tiling = "none"
    resize_policy = "stretch"
    pad_place = "center"
    pad_color = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)
        self._validate_preprocess_kwargs(
            **{name: getattr(self, name) for name in self._valid_kwargs_names}
        )

    @property
    def backend(self) -> str:
        """Name of the back end; the same code runs with and without torchvision."""
        return "torch"

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths, bytes, data URIs and URLs, without decoding pixels, keeping the nesting.

        Raises:
            ImageError: If an entry is missing or cannot be opened; names the sample and the image.
        """
        images = image_url_or_urls
        if not isinstance(images, (list, tuple)):
            return _open_image(images, "image 0")
        if _is_nested(images):
            return [
                [_open_image(image, f"sample {sample}, image {index}") for index, image in named]
                for sample, named in enumerate(map(enumerate, images))
            ]
        return [_open_image(image, f"image {index}") for index, image in enumerate(images)]

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict | None = None
    ) -> int:
        """Tiles of an upright image of `height` x `width` pixels, without its pixels."""
        return self.plan(height, width, images_kwargs).num_tiles

    def plan(self, height: int, width: int, images_kwargs: dict | None = None) -> TilePlan:
        """Plan the tiles of an upright image; `images_kwargs` override the settings."""
        settings = {
            name: getattr(self, name)
            for name in ("size", "do_resize", "tiling", "resize_policy", "pad_place")
        }
        overrides = {
            k: v for k, v in (images_kwargs or {}).items() if k in settings and v is not None
        }
        settings |= overrides
        settings["size"] = self._standardize_kwargs(size=settings["size"], default_to_square=True)[
            "size"
        ]
        return _plan(height, width, **settings)

    def _preprocess_image_like_inputs(self, images: Any, *args, **kwargs) -> BatchFeature:
        # One image at a time, so that only one is ever held decoded at full size.
        tiles, num_tiles = [], []
        for name, image in _flatten(self.fetch_images(images)):
            pixels = to_rgb(
                image,
                name=name,
                do_convert_rgb=kwargs["do_convert_rgb"] is not False,
                input_data_format=kwargs.get("input_data_format"),
            )
            image_tiles = self._make_tiles(pixels, name, **kwargs)
            tiles += image_tiles
            num_tiles.append(len(image_tiles))
        if not tiles:
            raise ValueError(
                "The list of images is empty. For text without images, pass images=None."
            )
        return self._preprocess(tiles, num_tiles=num_tiles, **kwargs)

    def _make_tiles(self, pixels: torch.Tensor, name: str, **kwargs) -> list[torch.Tensor]:
        height, width = pixels.shape[-2:]
        names = ("size", "do_resize", "tiling", "resize_policy", "pad_place")
        try:
            plan = _plan(height, width, **{key: kwargs[key] for key in names})
        except ValueError as error:
            raise ImageError(f"{name.capitalize()}: {error}") from None
        color = kwargs.get("pad_color") or [round(255 * value) for value in kwargs["image_mean"]]

        def paint(placement: Placement, canvas_height: int, canvas_width: int) -> torch.Tensor:
            return _paint(pixels, placement, (canvas_height, canvas_width), color)

        canvas = paint(plan.canvas, plan.canvas_height, plan.canvas_width)
        tiles = [canvas[:, top:bottom, left:right] for top, left, bottom, right in plan.tile_boxes]
        if plan.overview is not None:
            overview = paint(plan.overview, plan.tile_height, plan.tile_width)
            tiles = [overview, *tiles] if plan.overview_place == "first" else [*tiles, overview]
        return tiles

    def _preprocess(
        self, images: list[torch.Tensor], *, num_tiles: list[int], **kwargs
    ) -> BatchFeature:
        """Stack the uint8 tiles; rescale and normalise them in one pass."""
        # shape: (tiles, 3, height, width). Copying tile by tile turns channels-last into contiguous
        # five times faster than converting the stack.
        pixel_values = torch.empty((len(images), *images[0].shape), dtype=torch.uint8)
        for target, tile in zip(pixel_values, images, strict=True):
            target.copy_(tile)
        factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        if kwargs["do_normalize"]:
            std = torch.tensor(kwargs["image_std"], dtype=torch.float64)[:, None, None]
            mean = torch.tensor(kwargs["image_mean"], dtype=torch.float64)[:, None, None]
            scale, shift = (factor / std).float(), (-mean / std).float()
            pixel_values = pixel_values.to(torch.float32).mul_(scale).add_(shift)
        elif kwargs["do_rescale"]:
            pixel_values = pixel_values.to(torch.float32).mul_(factor)
        if kwargs.get("device") is not None:
            pixel_values = pixel_values.to(kwargs["device"])
        return_tensors = str(getattr(kwargs["return_tensors"], "value", kwargs["return_tensors"]))
        if return_tensors == "np":
            pixel_values = pixel_values.numpy(force=True)
        elif return_tensors not in ("None", "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}, but it must be 'pt' or 'np'.")
        return BatchFeature(data={"pixel_values": pixel_values, "num_tiles": num_tiles})

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        size = kwargs["size"]
        if not (isinstance(size, SizeDict) and size.height and size.width):
            raise ValueError(
                f"size is {size}, but it must give the 'height' and 'width' of a tile in pixels."
            )
        require_name("tiling", kwargs["tiling"], TILINGS)
        require_name("resize_policy", kwargs["resize_policy"], RESIZE_POLICIES)
        require_name("pad_place", kwargs["pad_place"], PAD_PLACES)
        if kwargs["resample"] != PILImageResampling.BICUBIC:
            raise ValueError(
                f"resample is {kwargs['resample']}, but only bicubic (3) is available."
            )
        for name in ("do_center_crop", "do_pad", "crop_size", "pad_size"):
            if kwargs.get(name):
                raise ValueError(f"{name} is not used: choose resize_policy='crop' or 'pad'.")
        if kwargs.get("data_format") not in (None, "channels_first", ChannelDimension.FIRST):
            raise ValueError(f"data_format is {kwargs['data_format']}: only channels_first exists.")
        if kwargs["do_rescale"] and not kwargs["rescale_factor"]:
            raise ValueError("do_rescale needs a rescale_factor, such as 1/255.")
        for name in ("image_mean", "image_std"):
            values = kwargs[name]
            if not isinstance(values, (tuple, list)) or len(values) != 3:
                raise ValueError(f"{name} is {values}, but three numbers (RGB) are expected.")
        color = kwargs["pad_color"]
        if color is not None and (len(color) != 3 or not all(0 <= value <= 255 for value in color)):
            raise ValueError(f"pad_color is {color}, but three numbers from 0 to 255 are expected.")

    def to_dict(self) -> dict[str, Any]:
        """Settings as saved; the type is `MM1ImageProcessor` under either back-end name."""
        return super().to_dict() | {"image_processor_type": "MM1ImageProcessor"}


class MM1ImageProcessorPil(MM1ImageProcessor):
    """`MM1ImageProcessor` under the name transformers expects of the PIL back end."""


def read_image_size(image: Any, *, name: str = "The image") -> tuple[int, int]:
    """Upright height and width in pixels from an image's header, without decoding its pixels.

    Args:
        image: Whatever `MM1ImageProcessor` accepts as one image.
        name: What an error calls the image.

    Raises:
        ImageError: If the image cannot be opened or its layout is unknown.
    """
    image = _open_image(image, name)
    if isinstance(image, Image.Image):
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)
    height, width = _channels_last(_as_tensor(image), image, name, None).shape[:2]
    return int(height), int(width)


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
    is_pil = isinstance(image, Image.Image)
    if is_pil and 0 in image.size:
        _fail(name, f"has size {image.size}", "at least one pixel is expected", _REMEDY)
    if is_pil:
        channels = image.mode
        pixels = torch.from_numpy(_decode_pil(image, name))  # shape: (height, width, 3)
    else:
        pixels, channels = _decode_array(image, name, input_data_format)
    if not do_convert_rgb and channels not in ("RGB", 3):
        _fail(name, f"has channels {channels}", "RGB is expected", "Set do_convert_rgb=True.")
    return pixels.permute(2, 0, 1)


def images_per_sample(images: Any) -> list[int] | None:
    """Number of images of each sample, or `None` for a single image or a flat list."""
    if isinstance(images, (list, tuple)) and _is_nested(images):
        return [len(sample) for sample in images]
    return None


def count_images(images: Any) -> int:
    """Number of images in one image, a list, or a list per sample."""
    return sum(1 for _ in _flatten(images))


def _flatten(images: Any) -> Iterator[tuple[str, Any]]:
    """Names and single images; arrays of four axes are lists."""
    if not isinstance(images, (list, tuple)):
        images = list(images) if _num_axes(images) == 4 else [images]
    is_nested = _is_nested(images)
    for index, image in enumerate(images):
        if is_nested or _num_axes(image) == 4:
            for inner, inner_image in enumerate(image):
                yield f"sample {index}, image {inner}", inner_image
        else:
            yield f"image {index}", image


def _num_axes(image: Any) -> int | None:
    return image.ndim if isinstance(image, (np.ndarray, torch.Tensor)) else None


def _is_nested(images: Iterable) -> bool:
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


def _open_image(image: Any, name: str) -> Any:
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
        _fail(name, f"is no readable picture ({error})", "PNG, JPEG, WebP … is expected", _REMEDY)
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
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def _decode_pil(image: Image.Image, name: str) -> np.ndarray:
    """RGB of shape (height, width, 3), uint8 and writable."""
    try:
        image.load()
        if _orientation(image) in range(2, 9):
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


def _as_tensor(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image.detach().cpu()
    # torch lacks foreign byte orders, long doubles, and most operations on wide unsigned integers.
    if image.dtype.kind == "u" and image.dtype.itemsize > 1:
        image = image.astype(np.int64)
    elif image.dtype.kind == "f":
        image = image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(image))


def _channels_last(
    pixels: torch.Tensor, image: Any, name: str, input_data_format: str | None
) -> torch.Tensor:
    """View an array as (height, width, channels)."""
    if pixels.ndim == 2:
        return pixels[:, :, None]
    shape = tuple(pixels.shape)
    can_lead = pixels.ndim == 3 and shape[0] in (1, 3, 4)
    can_trail = pixels.ndim == 3 and shape[2] in (1, 3, 4)
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
    if can_lead and can_trail:
        can_lead = isinstance(image, torch.Tensor)
    return pixels.permute(1, 2, 0) if can_lead else pixels


def _decode_array(image: Any, name: str, input_data_format: str | None) -> tuple[torch.Tensor, int]:
    """RGB of shape (height, width, 3), uint8; and the number of channels there were."""
    is_sixteen_bit = str(image.dtype).endswith("uint16")
    is_tensor = isinstance(image, torch.Tensor)
    if image.is_complex() if is_tensor else image.dtype.kind not in "biuf":
        _fail(name, f"has dtype {image.dtype}", "whole numbers or floats are expected", _REMEDY)
    pixels = _as_tensor(image)
    if pixels.dtype == torch.uint16:
        pixels = pixels.to(torch.int32)
    pixels = _channels_last(pixels, image, name, input_data_format)
    if 0 in pixels.shape:
        shape = tuple(image.shape)
        _fail(name, f"has shape {shape}", "at least one pixel is expected", _REMEDY)
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


def _plan(
    height: int, width: int, *, size: SizeDict, do_resize: bool, tiling: str, **places
) -> TilePlan:
    plan = plan_tiles(
        height, width, tile_height=size.height, tile_width=size.width, tiling=tiling, **places
    )
    if not do_resize and (tiling != "none" or (height, width) != (size.height, size.width)):
        raise ValueError(
            f"do_resize is false, but the image has {height} x {width} pixels and tiling is "
            f"{tiling!r}. Without resizing, tiling='none' and images of {size.height} x "
            f"{size.width} pixels are expected. Set do_resize=True."
        )
    return plan


def _paint(
    pixels: torch.Tensor, placement: Placement, canvas_size: tuple[int, int], color: list[int]
) -> torch.Tensor:
    """Resize an image onto a canvas; shape (3, canvas height, canvas width), uint8."""
    height, width = canvas_size
    resized_height, resized_width, top, left = placement
    if resized_height >= height and resized_width >= width:
        is_thin = resized_height * resized_width > 4 * height * width
        if is_thin:  # a sliver of an image: cut between the passes, or the rest would fill memory
            return _crop_and_resize(pixels, placement, canvas_size)
        resized = _resize(pixels, resized_height, resized_width)
        return resized[:, -top : height - top, -left : width - left]
    canvas = torch.empty((height, width, 3), dtype=torch.uint8)
    canvas[:] = torch.tensor([int(value) for value in color], dtype=torch.uint8)
    canvas = canvas.permute(2, 0, 1)
    resized = _resize(pixels, resized_height, resized_width)
    canvas[:, top : top + resized_height, left : left + resized_width] = resized
    return canvas


def _crop_and_resize(
    pixels: torch.Tensor, placement: Placement, canvas_size: tuple[int, int]
) -> torch.Tensor:
    height, width = canvas_size
    if placement.width > width:
        strip = _interpolate(pixels, pixels.shape[1], placement.width)
        strip = strip[:, :, -placement.left : width - placement.left]
    else:
        strip = _interpolate(pixels, placement.height, pixels.shape[2])
        strip = strip[:, -placement.top : height - placement.top]
    return _interpolate(strip, height, width)


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Antialiased bicubic, in the order of passes that Pillow takes.

    Each pass rounds and clips to uint8, so the order shows where the filter overshoots.
    Source: Pillow 13.0.0, `src/libImaging/Resample.c`, `horizontal_first`.
    """
    less_height, less_width = pixels.shape[1] - height, pixels.shape[2] - width
    if less_height > 0 and less_height > 2 * less_width and less_width != 0:
        pixels = _interpolate(pixels, height, pixels.shape[2])
    return _interpolate(pixels, height, width)


def _interpolate(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if pixels.shape[1:] == (height, width):
        return pixels
    # A batch of one keeps channels last in memory, on which torch's uint8 kernel is fastest.
    resized = F.interpolate(
        pixels[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0]
