"""AIMv2's vision tower, which stays what it is: `MM1VisionModel` has no SwiGLU and no RMSNorm.

Source: transformers 5, `models/aimv2/modeling_aimv2.py` (names of parameters).
"""

from pathlib import Path

from transformers import Aimv2VisionModel

from mm1_hf.conversion.formats import ConversionOptions, Format, Route, Side, write_config
from mm1_hf.conversion.renaming import Alias, Rename, RenameTable
from mm1_hf.conversion.sources import FolderSource, Source

AIMV2_TABLE = RenameTable(
    [
        Rename("embeddings", "embeddings"),
        Rename("encoder.layers.{}", "encoder.layers.{}"),
        Rename("rms_norm", "rms_norm"),
        Rename("head", "head"),
    ],
    [
        Alias("vision_model.", ""),
        Alias("text_model.", None, "AIMv2's text tower"),
        Alias("visual_projection.", None, "AIMv2's common space"),
        Alias("text_projection.", None, "AIMv2's common space"),
        Alias("logit_scale", None, "AIMv2's common space"),
        Alias("", ""),
    ],
)


class Aimv2Format(Format):
    """AIMv2's vision tower, taken out of a whole AIMv2 and checked, but not changed."""

    kind = "aimv2"
    description = "the vision tower of an AIMv2, which is kept as transformers' class"
    model_types = ("aimv2", "aimv2_vision_model")

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `Aimv2VisionModel` that stands alone."""
        config = getattr(source.config, "vision_config", source.config)
        note = (
            "AIMv2's feed-forward blocks are SwiGLU and its norms RMSNorm, which MM1VisionModel "
            "has not: the tower stays transformers' Aimv2VisionModel. Use it as it is: "
            "MM1ForConditionalGeneration.from_parts(vision=…)."
        )
        target = Side("Aimv2VisionModel", config, Aimv2VisionModel)
        return Route(Side("Aimv2VisionModel"), target, AIMV2_TABLE, (note,))

    def route_back(self, source: Source) -> Route:
        """There is no way back, as nothing was changed."""
        raise ValueError("An AIMv2 tower is never changed, so there is nothing to convert back.")

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write the configuration and the source's own image processor."""
        write_config(route.target, folder)
        path = source.folder / "preprocessor_config.json"
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
        return []
