"""`mm1 generate`: answer a prompt about pictures with a trained model."""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", required=True, help="folder or Hub id of an MM1 and its processor"
    )
    parser.add_argument("--prompt", required=True, help="question, or text to continue with --raw")
    parser.add_argument(
        "--image", action="append", default=[], type=Path, metavar="FILE", help="may be repeated"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--chat",
        dest="form",
        action="store_const",
        const="chat",
        default="chat",
        help="ask as a user, through the chat template (default)",
    )
    form.add_argument(
        "--raw",
        dest="form",
        action="store_const",
        const="raw",
        help="continue the prompt as it stands; <image> in it marks the place of each picture "
        "(without any, the pictures come first)",
    )
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Load the model, answer, print the answer."""
    for image in arguments.image:
        if not image.is_file():
            raise ValueError(f"There is no image file {str(image)!r}. Check the path.")
    from transformers import AutoModelForImageTextToText, AutoProcessor, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    require_checkpoint(arguments.model)
    model: Any = AutoModelForImageTextToText.from_pretrained(arguments.model).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    inputs = _inputs(processor, arguments).to(model.device, dtype=model.dtype)
    tokens = model.generate(**inputs, max_new_tokens=arguments.max_new_tokens, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    print(processor.decode(new, skip_special_tokens=True).strip())


def require_checkpoint(source: str) -> None:
    """Go on unless `source` is a folder but no checkpoint, or looks like a path that is missing.

    Raises:
        ValueError: If it is.
    """
    folder = Path(source)
    if folder.is_dir():
        missing = [
            name
            for name in ("config.json", "processor_config.json")
            if not (folder / name).is_file()
        ]
        if missing:
            raise ValueError(
                f"{source!r} is no checkpoint: it has no {' and no '.join(missing)}. Give a folder "
                "that holds a model and its processor, such as runs/demo/model."
            )
    elif source.count("/") != 1 or folder.is_absolute() or folder.parent.is_dir():
        raise ValueError(
            f"There is no folder {source!r}. Give the folder of a model, such as runs/demo/model "
            "(`mm1 demo` writes it), or a Hub id such as owner/name."
        )


def _inputs(processor, arguments: argparse.Namespace):
    images = [str(image) for image in arguments.image]
    if arguments.form == "chat":
        content = [{"type": "image", "image": image} for image in images]
        content.append({"type": "text", "text": arguments.prompt})
        return processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_tensors": "pt"},
        )
    prompt = arguments.prompt
    if processor.image_token not in prompt:
        prompt = processor.image_token * len(images) + prompt
    return processor(text=[prompt], images=images or None, return_tensors="pt")
