"""Honeybee's C-Abstractor as `MM1Connector`, and back.

Source: khanrc/honeybee, `honeybee/projectors/projectors.py` at 2658d5a (names, the extra leading
position of old checkpoints); timm, `timm/models/regnet.py`, `RegStage` (names within a stage).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from mm1_hf.conversion.formats import (
    ConversionOptions,
    Format,
    Route,
    Side,
    require_options,
)
from mm1_hf.conversion.operations import PointwiseToLinear, Shape, TakeRows
from mm1_hf.conversion.renaming import Alias, Rename, RenameTable, Rule
from mm1_hf.conversion.sources import FolderSource, Source
from mm1_hf.model.configuration_mm1 import MM1ConnectorConfig
from mm1_hf.model.connectors_mm1 import MM1Connector

_PREFIX = "abstractor."
_ALIASES = (
    Alias(_PREFIX, _PREFIX),
    Alias("vision_model.", None, "Honeybee's vision tower, which converts by itself"),
    Alias("language_model.", None, "Honeybee's decoder, which converts by itself"),
    Alias("net.", f"{_PREFIX}net."),
    Alias("readout.", f"{_PREFIX}readout."),
    Alias("pos_emb", f"{_PREFIX}pos_emb"),
)
# Of one block: timm's name, ours, whether it is a 1 x 1 convolution.
_BLOCK = (
    ("conv1.conv.weight", "conv1.weight", True),
    ("conv1.bn", "norm1", False),
    ("conv2.conv", "conv2", False),
    ("conv2.bn", "norm2", False),
    ("se.fc1.weight", "se.fc1.weight", True),
    ("se.fc1.bias", "se.fc1.bias", False),
    ("se.fc2.weight", "se.fc2.weight", True),
    ("se.fc2.bias", "se.fc2.bias", False),
    ("conv3.conv.weight", "conv3.weight", True),
    ("conv3.bn", "norm3", False),
    ("downsample.conv.weight", "shortcut.weight", True),
    ("downsample.bn", "shortcut_norm", False),
)


class HoneybeeFormat(Format):
    """The C-Abstractor of a Honeybee; its vision tower and decoder are other conversions."""

    kind = "honeybee"
    description = "the C-Abstractor of a Honeybee"
    model_types = ("mllm",)
    own_type = "mm1_connector"
    options = frozenset({"num_image_tokens"})

    def recognises(self, source: FolderSource) -> bool:
        """Whether the configuration or the names are Honeybee's."""
        if source.json("config.json") is not None:
            return super().recognises(source)
        return any(name.startswith(f"{_PREFIX}net.") for name in source.checkpoint.tensors)

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `MM1Connector`, whose sizes are read from the shapes."""
        shapes = {}
        names = RenameTable([Rename("abstractor", "abstractor")], _ALIASES)
        for key, info in source.checkpoint.tensors.items():
            if (name := names.rename(key)) is not None:
                shapes[name.removeprefix(_PREFIX)] = info.shape
        tokens = options.num_image_tokens
        if tokens is None:
            tokens = (source.json("config.json") or {}).get("num_query_tokens")
        if tokens is None:
            raise ValueError(
                f"The weights of {source.name!r} do not tell how many visual tokens the "
                "C-Abstractor makes of a tile, and there is no config.json with num_query_tokens. "
                "Give num_image_tokens (--num-image-tokens), such as 144."
            )
        config, skip = _connector_config(shapes, num_image_tokens=tokens, name=source.name)
        return Route(
            Side("Honeybee's C-Abstractor"),
            Side("MM1Connector", config, MM1Connector),
            _table(config, skip=skip),
            ("Old checkpoint: the unused first row of pos_emb is left out.",) if skip else (),
        )

    def route_back(self, source: Source) -> Route:
        """From an `MM1Connector`."""
        config = source.config
        require_options(config, {"connector_type": "c_abstractor"}, name="Honeybee's C-Abstractor")
        rows, columns = config.patch_grid
        if rows != columns:
            raise ValueError(
                f"Honeybee's C-Abstractor takes square grids of patches, not {rows} x {columns}."
            )
        texts: dict[str, dict[str, Any]] = {
            "honeybee_projector.json": {
                "num_query_tokens": config.num_image_tokens,
                "visual_projector_config": {
                    "projector_type": "c-abs",
                    "hidden_size": config.hidden_size,
                    "output_hidden_size": config.text_hidden_size,
                    "encoder_hidden_size": config.vision_hidden_size,
                    "depth": config.depth,
                    "mlp_depth": config.mlp_depth,
                    "num_eos_tokens": 0,
                    "pos_emb": True,
                    "prenorm": False,
                },
            }
        }
        return Route(
            Side("MM1Connector", config, MM1Connector),
            Side("Honeybee's C-Abstractor", texts=texts),
            _table(config).reversed(),
        )


def _connector_config(
    shapes: Mapping[str, Shape], *, num_image_tokens: int, name: str
) -> tuple[MM1ConnectorConfig, int]:
    """The connector's sizes, and how many leading rows of the position table are unused."""
    blocks = [int(match[1]) for key in shapes if (match := re.match(r"net\.0\.b(\d+)\.", key))]
    readout = [int(match[1]) for key in shapes if (match := re.match(r"readout\.(\d+)\.w", key))]
    needed = ("pos_emb", "net.0.b1.conv1.conv.weight", f"readout.{max(readout, default=0)}.weight")
    if missing := [key for key in needed if key not in shapes]:
        raise ValueError(
            f"{name!r} lacks {', '.join(_PREFIX + key for key in missing)}: it holds no "
            "C-Abstractor with learned positions."
        )
    positions, vision_width = shapes["pos_emb"][-2:]
    skip = int(math.isqrt(positions) ** 2 != positions)
    side = math.isqrt(positions - skip)
    if side * side != positions - skip:
        raise ValueError(
            f"{_PREFIX}pos_emb of {name!r} has {positions} rows, expected a square number such as "
            "729, or one more (old checkpoints)."
        )
    config = MM1ConnectorConfig(
        connector_type="c_abstractor",
        num_image_tokens=num_image_tokens,
        hidden_size=shapes["net.0.b1.conv1.conv.weight"][0],
        depth=max(blocks),
        mlp_depth=len(readout),
        vision_hidden_size=vision_width,
        text_hidden_size=shapes[needed[2]][0],
        patch_grid=[side, side],
    )
    return config, skip


def _table(config: PreTrainedConfig, *, skip: int = 0) -> RenameTable:
    rules: list[Rule] = [
        Rename(f"{_PREFIX}pos_emb", "projector.position_embedding", TakeRows(skip))
    ]
    # Blocks are counted from one there, and from zero here.
    for stage, net in (("stage1", 0), ("stage2", 2)):
        for block in range(config.depth):
            theirs, ours = f"{_PREFIX}net.{net}.b{block + 1}", f"projector.{stage}.{block}"
            rules += [
                Rename(
                    f"{theirs}.{their_name}",
                    f"{ours}.{our_name}",
                    PointwiseToLinear() if is_pointwise else None,
                )
                for their_name, our_name, is_pointwise in _BLOCK
            ]
    rules.append(Rename(f"{_PREFIX}readout", "projector.readout"))
    return RenameTable(rules, _ALIASES)
