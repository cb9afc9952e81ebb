"""Referring and grounding: regions as text, where they lie on tiles, and on the picture.

Coordinates in text always speak of the whole upright image, whatever tiles the model sees.

Source: MM1.5, arXiv 2409.20566 (coordinates are text; the surface form is not public).
"""

from mm1_hf.grounding.drawing import draw_regions
from mm1_hf.grounding.regions import Box, Point
from mm1_hf.grounding.text import (
    FERRET,
    SHIKRA,
    CoordinateFormat,
    Fault,
    FoundRegion,
    find_regions,
    format_box,
    format_boxes,
    format_point,
    format_points,
    parse_boxes,
    parse_points,
)
from mm1_hf.grounding.tile_pictures import draw_tiles
from mm1_hf.grounding.tiles import TileView, find_tile, tile_views

__all__ = [
    "FERRET",
    "SHIKRA",
    "Box",
    "CoordinateFormat",
    "Fault",
    "FoundRegion",
    "Point",
    "TileView",
    "draw_regions",
    "draw_tiles",
    "find_regions",
    "find_tile",
    "format_box",
    "format_boxes",
    "format_point",
    "format_points",
    "parse_boxes",
    "parse_points",
    "tile_views",
]
