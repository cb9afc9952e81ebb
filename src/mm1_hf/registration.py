"""Tells transformers' Auto classes about MM1, at the moment they are loaded.

Registering needs both transformers' Auto modules and our classes, which take seconds to import.
`import mm1_hf` must stay cheap, so a registration waits until transformers itself loads the Auto
module in question: from then on the user pays that price anyway.
"""

import importlib
import importlib.abc
import sys
from collections.abc import Callable
from dataclasses import dataclass

_AUTO = "transformers.models.auto"
_MODEL = "mm1_hf.model"


def _register_configurations() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from mm1_hf.model import configuration_mm1 as configuration

    for name in configuration.__all__:
        config_class = getattr(configuration, name)
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto as auto

    from mm1_hf.model.configuration_mm1 import (
        MM1Config,
        MM1ConnectorConfig,
        MM1TextConfig,
        MM1VisionConfig,
    )
    from mm1_hf.model.connectors_mm1 import MM1Connector
    from mm1_hf.model.decoder_mm1 import MM1ForCausalLM, MM1TextModel
    from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration, MM1Model
    from mm1_hf.model.vision_mm1 import MM1VisionModel

    for config_class, model_class in (
        (MM1Config, MM1Model),
        (MM1VisionConfig, MM1VisionModel),
        (MM1ConnectorConfig, MM1Connector),
        (MM1TextConfig, MM1TextModel),
    ):
        auto.AutoModel.register(config_class, model_class, exist_ok=True)
    auto.AutoModelForCausalLM.register(MM1TextConfig, MM1ForCausalLM, exist_ok=True)
    for auto_class in (auto.AutoModelForImageTextToText, auto.AutoModelForMultimodalLM):
        auto_class.register(MM1Config, MM1ForConditionalGeneration, exist_ok=True)


def _register_image_processor() -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from mm1_hf.model.configuration_mm1 import MM1Config
    from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor, MM1ImageProcessorPil

    AutoImageProcessor.register(
        MM1Config,
        image_processor_classes={"pil": MM1ImageProcessorPil, "torchvision": MM1ImageProcessor},
        exist_ok=True,
    )


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from mm1_hf.model.configuration_mm1 import MM1Config
    from mm1_hf.model.processing_mm1 import MM1Processor

    AutoProcessor.register(MM1Config, MM1Processor, exist_ok=True)


@dataclass(frozen=True)
class _Registration:
    """One Auto module, the module of ours it needs, and what to do when both are loaded."""

    auto_module: str
    own_module: str
    register: Callable[[], None]

    def run(self) -> None:
        """Register, unless one of the two is still being imported: its own hook comes then."""
        if self.auto_module in sys.modules and not _is_loading(self.own_module):
            self.register()


_REGISTRATIONS = (
    _Registration(
        f"{_AUTO}.configuration_auto", f"{_MODEL}.configuration_mm1", _register_configurations
    ),
    _Registration(f"{_AUTO}.modeling_auto", f"{_MODEL}.modeling_mm1", _register_models),
    _Registration(
        f"{_AUTO}.image_processing_auto",
        f"{_MODEL}.image_processing_mm1",
        _register_image_processor,
    ),
    _Registration(f"{_AUTO}.processing_auto", f"{_MODEL}.processing_mm1", _register_processor),
)


def _is_loading(module_name: str) -> bool:
    module = sys.modules.get(module_name)
    return module is not None and getattr(module.__spec__, "_initializing", False)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs the registrations a module takes part in right after that module was executed."""

    def find_spec(self, fullname, path, target=None):
        waiting = [r for r in _REGISTRATIONS if fullname in (r.auto_module, r.own_module)]
        if not waiting:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module):
            execute(module)
            # The module is complete, though the import system says so only after this returns.
            module.__spec__._initializing = False
            for registration in waiting:
                registration.run()

        spec.loader.exec_module = execute_and_register
        return spec


def register_when_loaded() -> None:
    """Register MM1 with every Auto module, now for those loaded already and else on their import."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for registration in _REGISTRATIONS:
        registration.run()
