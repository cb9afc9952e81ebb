"""What the conversions of CLIP-like vision towers share."""

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedModel

from mm1_hf.conversion.formats import (
    ConversionOptions,
    Format,
    Route,
    Side,
    require_options,
    write_config,
)
from mm1_hf.conversion.pictures import image_settings, saved_image_settings
from mm1_hf.conversion.renaming import Alias, RenameTable, Rule, SetAside
from mm1_hf.conversion.sources import FolderSource, Source
from mm1_hf.model.configuration_mm1 import MM1VisionConfig, image_height_width
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
from mm1_hf.model.vision_mm1 import MM1VisionModel

SHARED_FIELDS = (
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)


class TowerFormat(Format):
    """A vision tower of transformers that `MM1VisionModel` can be.

    Attributes:
        rules: Names of the tower's parts, and ours.
        final_norm: Name of its last norm.
        layers: Name of its blocks, up to the number.
        aliases: Other spellings of its names.
        own_options: Fields of `MM1VisionConfig` that make our tower this one.
        model_class: Its class.
        config_class: Its configuration.
        shared_fields: Fields that both configurations have.
    """

    own_type = "mm1_vision"
    options = frozenset({"feature_layer", "use_final_norm"})

    rules: ClassVar[tuple[Rule, ...]]
    final_norm: ClassVar[str] = "post_layernorm"
    layers: ClassVar[str] = "encoder.layers"
    aliases: ClassVar[tuple[Alias, ...]]
    own_options: ClassVar[dict[str, Any]]
    model_class: ClassVar[type[PreTrainedModel]]
    config_class: ClassVar[type[PreTrainedConfig]]
    shared_fields: ClassVar[tuple[str, ...]] = SHARED_FIELDS

    def their_fields(self, source: Source) -> dict[str, Any]:
        """Fields of the tower's configuration that are not shared, on the way back."""
        return {}

    def own_config(self, config: PreTrainedConfig, options: ConversionOptions) -> MM1VisionConfig:
        """Our tower's configuration.

        Raises:
            ValueError: If the configuration is not one of this kind.
        """
        config = getattr(config, "vision_config", config)
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"Expected a {self.config_class.__name__} for kind {self.kind!r}, but found "
                f"{type(config).__name__} with model_type {config.model_type!r}."
            )
        return MM1VisionConfig(
            **{name: getattr(config, name) for name in self.shared_fields},
            **self.own_options,
            **tower_choices(options),
        )

    def table(self, config: Any) -> RenameTable:
        """The rules for one configuration of our tower."""
        return RenameTable(
            [*unused_rules(config, layers=self.layers, final_norm=self.final_norm), *self.rules],
            self.aliases,
        )

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `MM1VisionModel`."""
        config = self.own_config(source.config, options)
        return Route(
            Side(self.model_class.__name__),
            Side("MM1VisionModel", config, MM1VisionModel),
            self.table(config),
        )

    def their_config(self, config: Any, source: Source) -> PreTrainedConfig:
        """The tower's own configuration, on the way back.

        Raises:
            ValueError: If our tower has something that this one has not.
        """
        require_options(config, self.own_options, name=self.model_class.__name__)
        require_unused(config, source, name=self.model_class.__name__)
        height, width = image_height_width(config)
        if height != width:
            raise ValueError(
                f"{self.model_class.__name__} takes square tiles only, but image_size of this "
                f"tower is {config.image_size}. Resample its positions to a square grid first."
            )
        fields: dict[str, Any] = {name: getattr(config, name) for name in self.shared_fields}
        fields |= {"image_size": height} | self.their_fields(source)
        return self.config_class(**fields)

    def route_back(self, source: Source) -> Route:
        """From an `MM1VisionModel`."""
        return Route(
            Side("MM1VisionModel", source.config, MM1VisionModel),
            Side(
                self.model_class.__name__,
                self.their_config(source.config, source),
                self.model_class,
            ),
            self.table(source.config).reversed(),
        )

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write the configuration and, where the source has one, our image processor."""
        write_config(route.target, folder)
        saved = saved_image_settings(source)
        if route.target.model_class is not MM1VisionModel or saved is None:
            return []
        try:
            settings = image_settings(saved, side=image_height_width(route.target.config))
        except ValueError as error:
            return [f"No image processor was written. {error}"]
        MM1ImageProcessor(**settings).save_pretrained(folder)
        return []


def tower_choices(options: ConversionOptions) -> dict[str, Any]:
    """Fields of `MM1VisionConfig` that were chosen."""
    names = ("feature_layer", "use_final_norm")
    return {name: getattr(options, name) for name in names if name in options.given}


def require_unused(config: Any, source: Source, *, name: str) -> None:
    """Check that what our tower does not use was kept, where the other tower has it.

    Raises:
        ValueError: If not.
    """
    uses_all = config.num_built_layers == config.num_hidden_layers and config.use_final_norm
    if not uses_all and not source.unused:
        raise ValueError(
            f"{name} has blocks or a norm that this tower does not use (feature_layer "
            f"{config.feature_layer}, use_final_norm {config.use_final_norm}), and they were not "
            "kept: unused.safetensors is missing beside its weights. Convert the original again "
            "with unused='keep', folder to folder."
        )


def unused_rules(config: Any, *, layers: str, final_norm: str) -> list[Rule]:
    """Set aside what lies behind the features that our tower returns."""
    rules: list[Rule] = [
        SetAside(f"{layers}.{layer}", f"behind feature_layer {config.feature_layer}")
        for layer in range(config.num_built_layers, config.num_hidden_layers)
    ]
    if not config.use_final_norm:
        rules.append(SetAside(final_norm, "use_final_norm is False"))
    return rules
