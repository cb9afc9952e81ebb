"""mm1_hf: composable modelling components for Apple's MM1 on Hugging Face conventions.

Importing the package costs almost nothing: public names load when they are first used, and
transformers' Auto classes learn of MM1 when they are first loaded.
"""

import importlib
from typing import TYPE_CHECKING

from mm1_hf.registration import register_when_loaded

__version__ = "0.1.0.dev0"

_PUBLIC_NAMES = {
    "MM1Config": "configuration_mm1",
    "MM1ConnectorConfig": "configuration_mm1",
    "MM1TextConfig": "configuration_mm1",
    "MM1VisionConfig": "configuration_mm1",
    "MM1VisionModel": "vision_mm1",
    "MM1Connector": "connectors_mm1",
    "MM1ForCausalLM": "decoder_mm1",
    "MM1TextModel": "decoder_mm1",
    "MM1ForConditionalGeneration": "modeling_mm1",
    "MM1Model": "modeling_mm1",
    "MM1ImageProcessor": "image_processing_mm1",
    "MM1Processor": "processing_mm1",
}

__all__ = [
    "MM1Config",
    "MM1Connector",
    "MM1ConnectorConfig",
    "MM1ForCausalLM",
    "MM1ForConditionalGeneration",
    "MM1ImageProcessor",
    "MM1Model",
    "MM1Processor",
    "MM1TextConfig",
    "MM1TextModel",
    "MM1VisionConfig",
    "MM1VisionModel",
]

if TYPE_CHECKING:
    from mm1_hf.model.configuration_mm1 import (
        MM1Config,
        MM1ConnectorConfig,
        MM1TextConfig,
        MM1VisionConfig,
    )
    from mm1_hf.model.connectors_mm1 import MM1Connector
    from mm1_hf.model.decoder_mm1 import MM1ForCausalLM, MM1TextModel
    from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
    from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration, MM1Model
    from mm1_hf.model.processing_mm1 import MM1Processor
    from mm1_hf.model.vision_mm1 import MM1VisionModel


def __getattr__(name: str):
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mm1_hf.model.{_PUBLIC_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_when_loaded()
