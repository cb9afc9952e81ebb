"""Other people's weights as ours, and back: ordered reversible renames that leave nothing over.

`convert` and `convert_back` go from folder to folder, tensor by tensor; `convert_model` and
`convert_model_back` from model to model. Each gives a `ConversionReport`; a key that no rule knows
is an error, before anything is written. `upcycle_checkpoint` and `upcycle` make a sparse model of a
dense one.
"""

from mm1_hf.conversion.convert import (
    FORMATS,
    Conversion,
    convert,
    convert_back,
    convert_model,
    convert_model_back,
)
from mm1_hf.conversion.formats import ConversionOptions
from mm1_hf.conversion.renaming import Rename, RenameTable
from mm1_hf.conversion.report import ConversionReport
from mm1_hf.conversion.upcycling import upcycle, upcycle_checkpoint, upcycled_config

__all__ = [
    "FORMATS",
    "Conversion",
    "ConversionOptions",
    "ConversionReport",
    "Rename",
    "RenameTable",
    "convert",
    "convert_back",
    "convert_model",
    "convert_model_back",
    "upcycle",
    "upcycle_checkpoint",
    "upcycled_config",
]
