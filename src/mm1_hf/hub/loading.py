"""Models and their processors from wherever they lie, all of them, with nothing filled in."""

from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import snapshot_download
from transformers import PreTrainedModel


class Loaded(NamedTuple):
    """A model, its processor (or tokenizer, or None), and the folder that both come from."""

    model: PreTrainedModel
    processor: Any
    folder: Path | None


def local_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """A folder as it is, or that of a Hub repository, downloaded.

    Raises:
        ValueError: If there is no such folder, and the name cannot be one of the Hub.
        OSError: If the Hub has no such repository or revision, or does not give it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or folder.parent.is_dir():
        raise ValueError(
            f"There is no folder {name!r}. Give the folder of a model, or a Hub id such as "
            "owner/name."
        )
    return Path(snapshot_download(name, revision=revision))


def load_source(source: Any, *, processor: Any = None) -> Loaded:
    """Load what is to be published, with the dtype it is stored in.

    Args:
        source: A model, or the folder or Hub id of one.
        processor: The processor of a model in memory, or one to take in place of the stored one.

    Raises:
        ValueError: If the checkpoint lacks weights, which would be noise.
    """
    if hasattr(source, "save_pretrained"):
        return Loaded(source, processor, None)
    # Slow to import, and not needed for a model in memory.
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    folder = local_folder(source)
    config = AutoConfig.from_pretrained(folder)
    seeing = config.model_type == "mm1"
    auto_class: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    model, report = auto_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{str(source)!r} lacks {len(missing)} weights, such as {missing[0]!r}, which would be "
            "published as noise. Publish the whole checkpoint; `mm1 doctor` says what it lacks."
        )
    if processor is None and seeing:
        processor = AutoProcessor.from_pretrained(folder)
    elif processor is None and (folder / "tokenizer_config.json").is_file():
        processor = AutoTokenizer.from_pretrained(folder)
    return Loaded(model.eval(), processor, folder)
