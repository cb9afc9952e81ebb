"""Makes MM1 known where serving engines look a class up: by its name in `transformers`.

The Auto classes learn of MM1 on import. Engines go past them: they take a class from the module
`transformers` by the architecture that `config.json` names, and tell what a model can read from
tables of names that registration does not fill.
"""

import sys
from collections.abc import Iterator
from types import ModuleType


def announce_to_transformers() -> None:
    """Put MM1's classes and their names where transformers has its own. Doing it twice is harmless.

    Call it before an engine loads a model.
    """
    from transformers.models.auto import modeling_auto as auto

    from mm1_hf.model.decoder_mm1 import MM1ForCausalLM
    from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration

    for module in _transformers_modules():
        for model_class in (MM1ForConditionalGeneration, MM1ForCausalLM):
            setattr(module, model_class.__name__, model_class)
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["mm1"] = MM1ForConditionalGeneration.__name__
    auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["mm1_text"] = MM1ForCausalLM.__name__


def _transformers_modules() -> Iterator[ModuleType]:
    """Every module object `transformers` that somebody holds.

    Loading processors makes transformers execute its package anew: who imported it before then
    holds another object than who imports it now.
    """
    yield sys.modules["transformers"]
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", {}).get("transformers")
        if isinstance(held, ModuleType) and held.__name__ == "transformers":
            yield held


def register_vllm() -> None:
    """What vLLM calls in each of its processes, as a plug-in of the group `vllm.general_plugins`.

    vLLM then runs MM1 on its transformers back end: any tower, any connector, dense or sparse.
    """
    announce_to_transformers()


__all__ = ["announce_to_transformers", "register_vllm"]
