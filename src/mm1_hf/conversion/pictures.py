"""Settings of other image processors as `MM1ImageProcessor`'s, and back."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Resampling

from mm1_hf.conversion.sources import FolderSource

_REQUIRED = {"do_resize": True, "do_rescale": True, "do_normalize": True}


def image_settings(saved: Mapping[str, Any], *, side: tuple[int, int]) -> dict[str, Any]:
    """Arguments of `MM1ImageProcessor` for a saved CLIP-like image processor.

    Args:
        saved: Its `preprocessor_config.json`.
        side: Height and width of a tile in pixels.

    Raises:
        ValueError: If it makes other pixels than ours can; says which setting it is.
    """
    height, width = side
    wrong = [
        f"{name} is {saved[name]}"
        for name, value in _REQUIRED.items()
        if saved.get(name, value) != value
    ]
    resample = saved.get("resample", Resampling.BICUBIC)
    if resample != Resampling.BICUBIC:
        wrong.append(f"resample is {Resampling(resample).name.lower()}")
    if abs(saved.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        wrong.append(f"rescale_factor is {saved['rescale_factor']}")
    if saved.get("do_pad"):
        wrong.append("do_pad is True")
    size = saved.get("size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
    crop = saved.get("crop_size") or {}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop)
    tile = {"height": height, "width": width}
    policy = None
    if size == tile and (not saved.get("do_center_crop") or crop in ({}, tile)):
        policy = "stretch"
    elif size == {"shortest_edge": height} and height == width:
        if saved.get("do_center_crop", True) and crop in ({}, tile):
            policy = "crop"
    if policy is None:
        wrong.append(f"size is {size}, crop_size {crop} for tiles of {height} x {width}")
    if wrong:
        raise ValueError(
            f"MM1ImageProcessor cannot make the pixels of this image processor: {'; '.join(wrong)}."
        )
    settings: dict[str, Any] = {"size": tile, "resize_policy": policy}
    for name in ("image_mean", "image_std"):
        if saved.get(name) is not None:
            settings[name] = tuple(saved[name])
    return settings


def saved_image_settings(source: FolderSource) -> Mapping[str, Any] | None:
    """What a folder says about its image processor, where either generation of files keeps it."""
    nested = (source.json("processor_config.json") or {}).get("image_processor")
    return nested or source.json("preprocessor_config.json")


def clip_image_settings(processor: Any) -> dict[str, Any]:
    """Arguments of CLIP's image processor for one of ours.

    Raises:
        ValueError: If ours makes tiles or pads, which CLIP's does not.
    """
    if processor.tiling != "none" or processor.resize_policy == "pad":
        raise ValueError(
            f"CLIP's image processor makes one tile without padding, but this one has tiling "
            f"{processor.tiling!r} and resize_policy {processor.resize_policy!r}."
        )
    tile = {"height": processor.size["height"], "width": processor.size["width"]}
    crops = processor.resize_policy == "crop"
    return {
        "size": {"shortest_edge": min(tile.values())} if crops else tile,
        "crop_size": tile,
        "do_center_crop": crops,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }
