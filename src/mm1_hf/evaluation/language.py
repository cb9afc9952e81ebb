"""The language model inside an MM1, and lm-evaluation-harness on it and on the whole.

Pre-training on pictures must not cost what a decoder knew of text; MM1 watches a group of text
benchmarks for that, `TEXT_CORE`. They compare likelihoods of texts, for which the decoder and its
head are enough, so `language_part` takes them out as a model of their own.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from mm1_hf.model.decoder_mm1 import MM1ForCausalLM

Ability = Literal["text", "images"]

TEXT_CORE: tuple[str, ...] = (
    "arc_easy",
    "arc_challenge",
    "piqa",
    "lambada_openai",
    "winogrande",
    "hellaswag",
    "sciq",
    "triviaqa",
    "webqs",
)
"""MM1's TextCore by the names of lm-evaluation-harness.

Source: MM1, arXiv 2403.09611, section 3 (which benchmarks, as reported; not re-verified). Which
split of ARC, which form of LAMBADA and how many shots is undisclosed: both splits, OpenAI's form
and the harness's own settings are our choice.
"""


def language_part(model: Any) -> PreTrainedModel:
    """The decoder of an MM1 and its head as a model for text, with the same weights, not a copy.

    Args:
        model: An `MM1ForConditionalGeneration`.

    Returns:
        `MM1ForCausalLM`, or for a foreign decoder what `AutoModelForCausalLM` makes of its
        configuration, such as `LlamaForCausalLM`.

    Raises:
        ValueError: If `model` is no whole MM1, or its decoder exists without a head only.
    """
    if model.config.model_type != "mm1" or not hasattr(model, "lm_head"):
        raise ValueError(
            f"{type(model).__name__} with model_type {model.config.model_type!r} was given, but an "
            "MM1ForConditionalGeneration is expected. A decoder with its head needs no taking out."
        )
    config = copy.deepcopy(model.config.text_config)
    config.tie_word_embeddings = model.config.tie_word_embeddings
    # On the meta device, so that no second set of weights is made.
    with torch.device("meta"):
        language: Any = (
            MM1ForCausalLM(config)
            if config.model_type == "mm1_text"
            else AutoModelForCausalLM.from_config(config)
        )
    setattr(language, language.base_model_prefix, model.model.language_model)
    language.set_output_embeddings(model.lm_head)
    missing = [name for name, parameter in language.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(
            f"{type(language).__name__} has weights that an MM1 does not keep, such as "
            f"{missing[0]!r}, so the language part of this MM1 cannot stand alone."
        )
    language.generation_config = copy.deepcopy(model.generation_config)
    language.name_or_path = model.name_or_path
    return language.eval()


def save_language_part(
    checkpoint: str | Path, folder: str | Path, *, trust_remote_code: bool = False
) -> Path:
    """Write the language part of a checkpoint and its tokenizer as a checkpoint of their own.

    Any tool for text models loads it: with a foreign decoder nothing of MM1 is left in it.

    Args:
        checkpoint: Folder or Hub id of an MM1 and its processor.
        folder: Where to write; must be empty or not exist.
        trust_remote_code: Whether the checkpoint's own code may run.

    Returns:
        The folder.

    Raises:
        FileExistsError: If `folder` is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, so nothing is written. Choose another.")
    model, processor = _load(checkpoint, trust_remote_code=trust_remote_code)
    language_part(model).save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return folder


def run_lm_eval(
    checkpoint: str | Path,
    tasks: Sequence[str] = TEXT_CORE,
    *,
    ability: Ability = "text",
    num_shots: int | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    include_path: str | Path | None = None,
    apply_chat_template: bool = False,
    output: str | Path | None = None,
    model_arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness in this process.

    Args:
        checkpoint: Folder or Hub id of an MM1 and its processor.
        tasks: Names of tasks or groups of the harness.
        ability: `"text"`: the language part, as the harness's `hf`. `"images"`: the whole MM1, as
            its `hf-multimodal`.
        num_shots: Demonstrations; the tasks' own number by default. The harness shows no pictures
            of demonstrations.
        batch_size: Prompts per forward.
        limit: Only the first so many documents of each task, to try things out.
        device: Such as `"cuda:1"` or `"cpu"`; a GPU if there is one.
        dtype: Such as `"bfloat16"`; that of the checkpoint by default.
        trust_remote_code: Whether the checkpoint's own code may run.
        include_path: Folder with tasks of your own.
        apply_chat_template: Whether prompts go through the chat template, for a tuned model.
        output: A JSON file for the results, without the samples.
        model_arguments: More arguments of the harness's model, such as `max_length` or
            `add_bos_token`.

    Returns:
        The harness's results: `["results"][task]["acc,none"]` and so on, with `["samples"]`.

    Raises:
        ImportError: If lm-evaluation-harness is missing.
        ValueError: If `ability` is not as expected.
    """
    if ability not in get_args(Ability):
        raise ValueError(f"ability is {ability!r}, but it must be 'text' or 'images'.")
    harness = _harness()
    model, processor = _load(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    arguments = {"batch_size": batch_size, **(model_arguments or {})}
    if ability == "text":
        tokenizer = processor.tokenizer
        asked = harness.HFLM(
            language_part(model), backend="causal", tokenizer=tokenizer, **arguments
        )
    else:
        # It loads the processor from where the model came from.
        asked = harness.HFMultimodalLM(
            model, backend="causal", trust_remote_code=trust_remote_code, **arguments
        )
    known = harness.TaskManager(include_path=None if include_path is None else str(include_path))
    results = harness.simple_evaluate(
        model=asked,
        tasks=list(tasks),
        num_fewshot=num_shots,
        limit=limit,
        apply_chat_template=apply_chat_template,
        task_manager=known,
    )
    if output is not None:
        kept = {name: value for name, value in results.items() if name != "samples"}
        text = json.dumps(kept, indent=2, sort_keys=True, default=str)
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(text + "\n", encoding="utf-8")
    return results


def main() -> None:
    """The harness's own command line, where MM1 is known: `python -m mm1_hf.evaluation.language`.

    It is what `accelerate launch -m` starts for several processes.
    """
    _harness()
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()


def _load(checkpoint: str | Path, *, trust_remote_code: bool, dtype: str = "auto") -> Any:
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=dtype, trust_remote_code=trust_remote_code
    )
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    return model, processor


def _harness() -> Any:
    """What is used of lm-evaluation-harness, which is slow to import and need not be there."""
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise ImportError(
            'These tasks need lm-evaluation-harness: pip install "mm1-hf[eval]".'
        ) from None
    from lm_eval.models.hf_vlms import HFMultimodalLM  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return SimpleNamespace(
        HFLM=HFLM,
        HFMultimodalLM=HFMultimodalLM,
        TaskManager=TaskManager,
        simple_evaluate=lm_eval.simple_evaluate,
    )


if __name__ == "__main__":
    main()
