"""The command line of vLLM's OpenAI server for an MM1."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from mm1_hf.serving.chat_template import escaping_chat_template

ImageSources = Literal["data", "web"]

# vLLM has no switch that refuses addresses: this list lets a name through that nobody can own.
_NO_DOMAIN = "nowhere.invalid"


def vllm_command(
    checkpoint: str,
    processor: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    dtype: str = "auto",
    image_sources: ImageSources = "data",
    options: Sequence[str] = (),
) -> list[str]:
    """Program and arguments that serve a checkpoint with vLLM.

    Args:
        checkpoint: Folder or Hub id.
        processor: Its `MM1Processor`.
        host: Address to listen on.
        port: Port to listen on.
        dtype: Dtype of the model, as vLLM names it.
        image_sources: `"data"`: pictures come inside the request. `"web"`: the server also fetches
            the addresses in a request, whatever they are.
        options: Further options of vLLM's server without their dashes, such as
            `"max-model-len=4096"` or `"enforce-eager"`.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", checkpoint, "--host", host, "--port", str(port), "--dtype", dtype]
    # MM1 has no class of vLLM's own; without this a name that is not found says nothing useful.
    command += ["--model-impl", "transformers"]
    command += ["--chat-template", escaping_chat_template(processor)]
    # Left to itself vLLM guesses from the template whether pictures are parts of a message.
    command += ["--chat-template-content-format", "openai"]
    if image_sources == "data":
        command += ["--allowed-media-domains", _NO_DOMAIN]
    if images_depend_on_neighbours(processor):
        command += ["--mm-processor-cache-gb", "0", "--no-enable-prefix-caching"]
    return command + [f"--{option}" for option in options]


def images_depend_on_neighbours(processor: Any) -> bool:
    """Whether what a picture becomes depends on the other pictures of its prompt.

    It does where dynamic tiling leaves samples of many pictures whole, and where markers number the
    pictures. An engine that keeps pictures by their content, as vLLM does by default, then answers
    wrongly or not at all.
    """
    return processor.image_processor.tiling == "dynamic" or processor.markers == "index"


__all__ = ["ImageSources", "images_depend_on_neighbours", "vllm_command"]
