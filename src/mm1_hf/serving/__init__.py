"""MM1 behind HTTP, on engines that exist: transformers' server, vLLM; and a page to try it.

Names load when they are first used: vLLM imports this package in each of its processes.
"""

import importlib
from typing import TYPE_CHECKING

_HOMES = {
    "Answerer": "answering",
    "ImageSources": "vllm_server",
    "PageLogic": "page",
    "Picture": "prompts",
    "PromptCount": "answering",
    "announce_to_transformers": "announcing",
    "build_page": "page",
    "escaping_chat_template": "chat_template",
    "images_depend_on_neighbours": "vllm_server",
    "open_page": "page",
    "read_pieces": "prompts",
    "register_vllm": "announcing",
    "require_allowed_pictures": "transformers_server",
    "serve_with_transformers": "transformers_server",
    "vllm_command": "vllm_server",
}

__all__ = [
    "Answerer",
    "ImageSources",
    "PageLogic",
    "Picture",
    "PromptCount",
    "announce_to_transformers",
    "build_page",
    "escaping_chat_template",
    "images_depend_on_neighbours",
    "open_page",
    "read_pieces",
    "register_vllm",
    "require_allowed_pictures",
    "serve_with_transformers",
    "vllm_command",
]

if TYPE_CHECKING:
    from mm1_hf.serving.announcing import announce_to_transformers, register_vllm
    from mm1_hf.serving.answering import Answerer, PromptCount
    from mm1_hf.serving.chat_template import escaping_chat_template
    from mm1_hf.serving.page import PageLogic, build_page, open_page
    from mm1_hf.serving.prompts import Picture, read_pieces
    from mm1_hf.serving.transformers_server import (
        require_allowed_pictures,
        serve_with_transformers,
    )
    from mm1_hf.serving.vllm_server import ImageSources, images_depend_on_neighbours, vllm_command


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
