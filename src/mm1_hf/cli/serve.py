"""`mm1 serve`: put a checkpoint behind an OpenAI-compatible server."""

import argparse
import importlib.util
import os

from mm1_hf.cli.generate import require_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", help="folder or Hub id of an MM1 and its processor")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        default="transformers",
        help="transformers serves one request after the other; vllm, which is installed apart, "
        "many at once (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="for transformers; default: %(default)s")
    parser.add_argument("--dtype", default="auto", help="default: that of the weights")
    parser.add_argument(
        "--image-sources",
        choices=("data", "web"),
        default="data",
        help="data: pictures come inside the request; web: the server also fetches the addresses "
        "that a request names (default: %(default)s)",
    )
    parser.add_argument(
        "--vllm-option",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="an option of vLLM's own server, as max-model-len=4096; may be repeated",
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve until stopped."""
    if arguments.vllm_option and arguments.engine != "vllm":
        raise ValueError("--vllm-option needs --engine vllm.")
    require_checkpoint(arguments.checkpoint)
    if arguments.engine == "vllm":
        _run_vllm(arguments)
        return
    from mm1_hf.serving import serve_with_transformers

    serve_with_transformers(
        arguments.checkpoint,
        host=arguments.host,
        port=arguments.port,
        device=arguments.device,
        dtype=arguments.dtype,
        image_sources=arguments.image_sources,
    )


def _run_vllm(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "The engine vllm is not installed, and which build of it is right depends on the "
            "machine. Install it with: pip install vllm (docs/guides/serve.md says which versions "
            "go together), or use --engine transformers."
        )
    from transformers import AutoProcessor

    from mm1_hf.serving import images_depend_on_neighbours, vllm_command

    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    if images_depend_on_neighbours(processor):
        print("What a picture becomes depends on its neighbours: vLLM's caches are switched off.")
    command = vllm_command(
        arguments.checkpoint,
        processor,
        host=arguments.host,
        port=arguments.port,
        dtype=arguments.dtype,
        image_sources=arguments.image_sources,
        options=arguments.vllm_option,
    )
    # In place of this process, so that signals reach vLLM.
    os.execv(command[0], command)
