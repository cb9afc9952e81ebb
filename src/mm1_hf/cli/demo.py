"""`mm1 demo`: the main job, from handwritten digits to a published model that answers."""

import argparse
import functools
import importlib.util
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    page = parser.add_argument_group("a page in the browser instead of the table")
    page.add_argument(
        "--web",
        action="store_true",
        help="open a page to try a model: the one of --model, else the demonstration's, which is "
        "trained first if OUTPUT has none yet",
    )
    page.add_argument("--model", metavar="CHECKPOINT", help="folder or Hub id of an MM1")
    page.add_argument("--device", default="cpu", help="default: %(default)s")
    page.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    page.add_argument("--port", type=int, help="default: the first free one from 7860")


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate, publish, check, and print the table; or open the page."""
    if arguments.model is not None and not arguments.web:
        raise ValueError("--model is for the page: add --web, or use `mm1 generate`.")
    checkpoint = arguments.model or str(arguments.output / "model")
    # Said before a training that takes minutes, not after it.
    if arguments.web and importlib.util.find_spec("gradio") is None:
        raise ValueError("The page needs gradio. Install it with: pip install 'mm1-hf[web]'")
    if not arguments.web or not (arguments.model or Path(checkpoint).is_dir()):
        _train(arguments)
    if arguments.web:
        _open_page(checkpoint, arguments)


def _train(arguments: argparse.Namespace) -> None:
    try:
        from mm1_hf.demo.run import run_demo
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The demonstration needs {error.name}. Install it with: pip install 'mm1-hf[demo]'"
        ) from error
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()  # those of saving and loading; training keeps its own
    run_demo(arguments.output, seed=arguments.seed)


def _open_page(checkpoint: str, arguments: argparse.Namespace) -> None:
    from transformers import logging

    from mm1_hf.cli.generate import require_checkpoint
    from mm1_hf.grounding import draw_tiles
    from mm1_hf.serving import Answerer, PageLogic, build_page, open_page

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    require_checkpoint(checkpoint)
    answerer = Answerer.from_pretrained(checkpoint, device=arguments.device)
    draw = functools.partial(_draw, draw_tiles, answerer.processor)
    page = build_page(PageLogic(answerer, draw), name=checkpoint)
    open_page(page, host=arguments.host, port=arguments.port)


def _draw(draw_tiles, processor, image, max_tiles: int):
    return draw_tiles(image, processor, max_tiles=max_tiles)
