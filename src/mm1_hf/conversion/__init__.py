"""Other people's weights as ours, and back: ordered reversible renames that leave nothing over.

Every conversion returns the converted model with a `ConversionReport`; a key that no rule knows is
an error, before anything is built.
"""

from mm1_hf.conversion.clip import convert_clip_vision, export_clip_vision
from mm1_hf.conversion.llama import convert_llama, export_llama
from mm1_hf.conversion.renaming import Conversion, ConversionReport, Rename, RenameTable

__all__ = [
    "Conversion",
    "ConversionReport",
    "Rename",
    "RenameTable",
    "convert_clip_vision",
    "convert_llama",
    "export_clip_vision",
    "export_llama",
]
