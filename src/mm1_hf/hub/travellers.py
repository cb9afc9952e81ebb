"""What may travel to the Hub: the files of `mm1_hf.model`, which need nothing else of ours."""

from pathlib import Path

import mm1_hf.model

# Auto class to the class that stands behind it, for each file of a published folder that may carry
# an `auto_map`. Every Auto class of MM1 is listed: transformers itself would write only one.
CONFIG_AUTO_MAP = {
    "AutoConfig": "configuration_mm1.MM1Config",
    "AutoModel": "modeling_mm1.MM1Model",
    "AutoModelForImageTextToText": "modeling_mm1.MM1ForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_mm1.MM1ForConditionalGeneration",
}
TEXT_CONFIG_AUTO_MAP = {
    "AutoConfig": "configuration_mm1.MM1TextConfig",
    "AutoModel": "decoder_mm1.MM1TextModel",
    "AutoModelForCausalLM": "decoder_mm1.MM1ForCausalLM",
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_mm1.MM1Processor"}
IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": {
        "torchvision": "image_processing_mm1.MM1ImageProcessor",
        "pil": "image_processing_mm1.MM1ImageProcessorPil",
    }
}


def travelling_files() -> list[Path]:
    """Return the source files that are copied beside the weights when code is published."""
    folder = Path(mm1_hf.model.__file__).parent
    return sorted(folder.glob("*_mm1.py"))
