"""Tells transformers' Auto classes about MM1, at the moment they are loaded.

Registering needs both transformers' Auto modules and our classes, which take seconds to import.
`import mm1_hf` must stay cheap, so a registration waits until transformers itself loads the Auto
module in question: from then on the user pays that price anyway.
"""

import functools
import importlib.abc
import sys
from collections.abc import Callable
from types import ModuleType

_AUTO = "transformers.models.auto"


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


# Auto module to what there is to register with it.
_REGISTRATIONS: dict[str, Callable[[], None]] = {
    f"{_AUTO}.configuration_auto": _register_configurations,
    f"{_AUTO}.modeling_auto": _register_models,
    f"{_AUTO}.image_processing_auto": _register_image_processor,
    f"{_AUTO}.processing_auto": _register_processor,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Registers once an Auto module is loaded and no module of either library is half-way.

    An Auto module is often loaded from inside another import, ours included; registering right then
    would import our classes from half-executed modules.
    """

    def __init__(self):
        self.waiting = dict(_REGISTRATIONS)
        self.depth = 0

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] not in ("transformers", "mm1_hf"):
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(self._execute, spec.loader.exec_module)
        return spec

    def _execute(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        self.depth += 1
        try:
            exec_module(module)
        finally:
            self.depth -= 1
        if self.depth == 0:
            self.register_loaded()

    def register_loaded(self) -> None:
        """Run the registrations whose Auto module is loaded, each once."""
        for auto_module in [name for name in self.waiting if name in sys.modules]:
            # Another registration may have imported, and thereby served, this one.
            register = self.waiting.pop(auto_module, None)
            if register is not None:
                register()


def register_when_loaded() -> None:
    """Register MM1 with every Auto module: now if it is loaded, else right after it is."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.register_loaded()
