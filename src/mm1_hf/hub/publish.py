"""Writes a model and its processor into a folder, proves that it loads, and uploads it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import PreTrainedModel

from mm1_hf.hub.clean_process import answer_here, make_prompt
from mm1_hf.hub.inspection import is_training_state, require_publishable
from mm1_hf.hub.loading import Loaded, load_source
from mm1_hf.hub.model_card import CardFacts, make_card
from mm1_hf.hub.records import read_records
from mm1_hf.hub.rehearsal import import_required, rehearse, require_travelling_parts
from mm1_hf.hub.travellers import (
    CONFIG_AUTO_MAP,
    IMAGE_PROCESSOR_AUTO_MAP,
    PROCESSOR_AUTO_MAP,
    TEXT_CONFIG_AUTO_MAP,
    travelling_files,
)

CARD = "README.md"

_AUTO_MAPS = {"mm1": CONFIG_AUTO_MAP, "mm1_text": TEXT_CONFIG_AUTO_MAP}

# Of an older publication in the same repository, what a new one replaces under whatever names.
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "*_mm1.py", "pytorch_model*.bin*")


# Where transformers puts the further templates of a processor that has several.
_OWN_FOLDERS = ("additional_chat_templates",)


class Published(NamedTuple):
    """What `publish` has done, or with `dry_run` would have done.

    Attributes:
        files: Names of the files, with their bytes.
        card: The model card.
        folder: The local folder; None if none was asked for.
        commit: Address of the commit on the Hub; None if nothing was uploaded.
    """

    files: dict[str, int]
    card: str
    folder: Path | None
    commit: str | None


def publish(
    source: PreTrainedModel | str | Path,
    *,
    processor: Any = None,
    repo_id: str | None = None,
    folder: str | Path | None = None,
    remote_code: bool = True,
    requires: Sequence[str] = (),
    private: bool | None = None,
    revision: str = "main",
    license: str | None = None,
    results: Sequence[str | Path] = (),
    include: Sequence[str | Path] = (),
    dry_run: bool = False,
    max_shard_size: str = "5GB",
    token: str | None = None,
) -> Published:
    """Publish a model with all that readers need, after proving that it works for them.

    Weights, configuration, generation settings, processor, code if wanted, and a model card are
    written into a new folder. The folder must hold nothing private (see `inspect_folder`). It is
    loaded in a clean process through every Auto class; what its processor makes of a prompt with
    pictures, its logits and its greedy tokens must be those of the source. Only then is it put in
    its place and uploaded, as one commit: readers see all of it or nothing.

    Args:
        source: A model, or the folder or Hub id of one. A training run's folder also brings its
            `recipe.json`, `mixture.json`, `trainer_state.json` and `results.json` into the card.
        processor: The processor (of a decoder: the tokenizer, if any) of a model in memory.
        repo_id: Where to upload, `owner/name`; the repository is made if there is none.
        folder: Where to write locally, in place of uploading or besides.
        remote_code: Whether to publish the code too, so that `trust_remote_code=True` loads the
            model where mm1_hf is not installed.
        requires: Modules that readers import first; for parts of your own, without remote code.
        private: Whether a new repository is private; None means the owner's default.
        revision: Branch to upload to; it is made from `main` if there is none.
        license: Licence of the weights, by the Hub's name such as `"apache-2.0"`.
        results: Files that `mm1 evaluate` wrote, for the card.
        include: Further files to publish, such as pictures for the card.
        dry_run: Stop before anything is replaced or uploaded.
        max_shard_size: Largest size of one file of weights.
        token: Token of the Hub; that of `hf auth login` by default.

    Raises:
        ValueError: If the model is incomplete or of an unknown type, has parts that do not travel,
            the folder holds what must stay private, or it does not work in the clean process.
        FileExistsError: If `folder` exists and holds a run, or anything but a published model.
        OSError: If the Hub refuses or the upload breaks off; nothing is visible then.
    """
    if repo_id is None and folder is None:
        raise ValueError("There is nowhere to publish to: pass repo_id=, folder= or both.")
    import_required(requires)
    loaded = load_source(source, processor=processor)
    require_known_type(loaded.model, loaded.processor)
    require_travelling_parts(loaded.model, remote_code=remote_code, requires=requires)
    api = HfApi(token=token)
    target = None if folder is None else Path(folder).expanduser().resolve()
    with _new_folder(target) as complete:
        _write(loaded, complete, remote_code=remote_code, max_shard_size=max_shard_size)
        _include(complete, include)
        facts = replace(
            _facts(loaded, repo_id=repo_id, folder=target),
            records=read_records(loaded.folder, results=results),
            remote_code=remote_code,
            requires=requires,
            license=license,
        )
        card = make_card(facts, older=_older_card(target, api, repo_id, revision))
        (complete / CARD).write_text(card, encoding="utf-8")
        require_publishable(complete)
        _rehearse(loaded, complete, remote_code=remote_code, requires=requires)
        files = _sizes(complete)
        commit = None
        if repo_id is not None and not dry_run:
            commit = _upload(api, complete, repo_id, revision=revision, private=private)
        if target is not None and not dry_run:
            _put_in_place(complete, target)
    return Published(files, card, None if dry_run else target, commit)


def publish_to_folder(
    *,
    model: PreTrainedModel,
    processor: Any,
    folder: str | Path,
    remote_code: bool = True,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a model, its processor and, if wanted, their code into a folder, and nothing more.

    The folder is complete or not there at all: it is written under a temporary name beside its
    place and then moved. An older folder of the same name is replaced. `publish` also writes a
    card, and tries the folder out.

    Args:
        model: `MM1ForConditionalGeneration` or `MM1ForCausalLM`.
        processor: The processor the model was trained with; for a decoder its tokenizer or None.
        folder: Where to write.
        remote_code: Whether to copy the code, so that `trust_remote_code=True` loads the folder
            where mm1_hf is not installed.
        max_shard_size: Largest size of one file of weights.

    Returns:
        The folder.

    Raises:
        ValueError: If the model's type is unknown, or a model that sees comes without a processor.
        FileExistsError: If `folder` exists and holds anything but a published model.
    """
    folder = Path(folder)
    require_known_type(model, processor)
    with _new_folder(folder.resolve()) as complete:
        _write(
            Loaded(model, processor, None),
            complete,
            remote_code=remote_code,
            max_shard_size=max_shard_size,
        )
        _put_in_place(complete, folder.resolve())
    return folder


def require_known_type(model: PreTrainedModel, processor: Any) -> None:
    """Go on if a model can be published.

    Raises:
        ValueError: If its type is unknown, or it sees and comes without a processor.
    """
    if model.config.model_type not in _AUTO_MAPS:
        raise ValueError(
            f"Cannot publish a model of type {model.config.model_type!r}: expected one of "
            f"{', '.join(_AUTO_MAPS)}."
        )
    if processor is None and model.config.model_type == "mm1":
        raise ValueError(
            "A model that sees cannot be used without its processor: pass processor=, the "
            "MM1Processor it was trained with."
        )


def count_parts(model: Any) -> dict[str, int]:
    """Parameters of each part of a model, shared ones counted once, and of all."""
    inner = getattr(model, "model", model)
    parts = {
        "vision tower": getattr(inner, "vision_tower", None),
        "connector": getattr(inner, "connector", None),
        "decoder": getattr(inner, "language_model", None),
    }
    counts = {
        name: sum(one.numel() for one in part.parameters())
        for name, part in parts.items()
        if part is not None
    }
    return {**counts, "all": sum(one.numel() for one in model.parameters())}


@contextmanager
def _new_folder(target: Path | None) -> Iterator[Path]:
    """A folder to write, on the disk of its place, removed afterwards unless it was moved."""
    beside = None
    if target is not None:
        if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
            raise FileExistsError(
                f"{target} exists and holds no published model, so it is not overwritten. Choose "
                "another folder or empty this one."
            )
        _require_no_run(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.parent
    name = "model" if target is None else target.name
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{name}-") as scratch:
        yield Path(scratch) / name


def _require_no_run(target: Path) -> None:
    """A run's folder also has a config.json; replacing it would delete its checkpoints."""
    entries = sorted(target.iterdir()) if target.exists() else []
    kept = [
        entry.name
        for entry in entries
        if is_training_state(entry.name) or (entry.is_dir() and entry.name not in _OWN_FOLDERS)
    ]
    if kept:
        raise FileExistsError(
            f"{target} holds a run ({', '.join(kept[:3])}), not a published model, so it is not "
            "replaced. Choose another folder."
        )


def _include(folder: Path, files: Sequence[str | Path]) -> None:
    for file in map(Path, files):
        if (folder / file.name).exists() or file.name == CARD:
            raise ValueError(
                f"{str(file)!r} cannot be included: {file.name} is written here. Rename it."
            )
        shutil.copyfile(file, folder / file.name)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _put_in_place(complete: Path, target: Path) -> None:
    if target.exists():
        target.rename(complete.parent / "replaced")
    complete.rename(target)


def _write(loaded: Loaded, folder: Path, *, remote_code: bool, max_shard_size: str) -> None:
    loaded.model.save_pretrained(folder, max_shard_size=max_shard_size)
    if loaded.processor is not None:
        loaded.processor.save_pretrained(folder)
    _forget_folders(folder / "config.json")
    if remote_code:
        _add_code(folder, model_type=loaded.model.config.model_type)


def _forget_folders(file: Path) -> None:
    """Drop the folders that parts were loaded from, which transformers keeps in configurations."""

    def cleaned(entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        origin = entry.get("_name_or_path")
        here = isinstance(origin, str) and (Path(origin).is_absolute() or Path(origin).is_dir())
        return {
            name: cleaned(value)
            for name, value in entry.items()
            if not (here and name == "_name_or_path")
        }

    content = cleaned(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _rehearse(loaded: Loaded, folder: Path, *, remote_code: bool, requires: Sequence[str]) -> None:
    model: Any = loaded.model
    prompt = make_prompt(model.config, loaded.processor)
    rehearse(
        folder,
        prompt=prompt,
        expected=answer_here(model, loaded.processor, prompt),
        config=model.config,
        remote_code=remote_code,
        has_processor=loaded.processor is not None,
        requires=requires,
        device=model.device.type,
    )


def _facts(loaded: Loaded, *, repo_id: str | None, folder: Path | None) -> CardFacts:
    """What a card tells of the model itself."""
    model: Any = loaded.model
    source = repo_id or ("model" if folder is None else folder.name)
    return CardFacts(
        name=source.rpartition("/")[2],
        source=source,
        config=model.config,
        num_parameters=count_parts(model),
        dtype=str(model.dtype).removeprefix("torch."),
        processor=loaded.processor,
        generation=_generation_settings(model),
    )


def _generation_settings(model: Any) -> dict[str, Any]:
    """Settings that a reader would want to know; ids of tokens and plumbing are not."""
    settings = model.generation_config.to_diff_dict()
    plumbing = ("transformers_version", "use_cache")
    return {
        name: value
        for name, value in settings.items()
        if name not in plumbing
        and not name.endswith("_token_id")
        and not name.startswith(("_", "output_", "return_"))
    }


def _older_card(target: Path | None, api: HfApi, repo_id: str | None, revision: str) -> str | None:
    """The card of an earlier publication: that on the Hub, where people edit it, before ours."""
    if repo_id is not None:
        for place in dict.fromkeys((revision, "main")):
            card = _card_on_hub(api, repo_id, place)
            if card is not None:
                return card
    if target is not None and (target / CARD).is_file():
        return (target / CARD).read_text(encoding="utf-8")
    return None


def _card_on_hub(api: HfApi, repo_id: str, revision: str) -> str | None:
    # With a cache of its own: an old copy must not take the place of what people wrote since.
    with tempfile.TemporaryDirectory(prefix="mm1-card-") as cache:
        try:
            path = api.hf_hub_download(repo_id, CARD, revision=revision, cache_dir=cache)
            return Path(path).read_text(encoding="utf-8")
        except LocalEntryNotFoundError as error:
            raise OSError(
                f"The Hub cannot be asked whether {repo_id!r} has a model card already, whose "
                f"prose would be kept ({error.__cause__ or error}). Try again with a network, or "
                "publish into a local folder first."
            ) from error
        except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
            return None


def _upload(api: HfApi, folder: Path, repo_id: str, *, revision: str, private: bool | None) -> str:
    """Upload a folder as one commit, in place of what an earlier publication left."""
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message="Publish with mm1_hf",
            delete_patterns=list(_REPLACED),
        )
    except HfHubHTTPError as error:
        raise OSError(
            f"The Hub refused the upload to {repo_id!r}: {error} Nothing of it is visible. Check "
            "the name, and log in with `hf auth login`, with a token that may write there."
        ) from error
    except Exception as error:  # each HTTP library has errors of its own
        cause = error.__cause__ or error
        raise OSError(
            f"The upload to {repo_id!r} broke off ({type(cause).__name__}: {cause}). Nothing of it "
            "is visible. Run the same again: files that have arrived are not sent twice."
        ) from error
    return commit.commit_url


def _add_code(folder: Path, *, model_type: str) -> None:
    """Copy the travelling files and say in each JSON file which class stands where."""
    for file in travelling_files():
        shutil.copyfile(file, folder / file.name)
    _update_json(folder / "config.json", auto_map=_AUTO_MAPS[model_type])
    processor_file = folder / "processor_config.json"
    if processor_file.exists():
        entries = json.loads(processor_file.read_text(encoding="utf-8"))
        image_processor = {**entries["image_processor"], "auto_map": IMAGE_PROCESSOR_AUTO_MAP}
        auto_map = {**PROCESSOR_AUTO_MAP, **IMAGE_PROCESSOR_AUTO_MAP}
        _update_json(processor_file, auto_map=auto_map, image_processor=image_processor)


def _update_json(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content.update(entries)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
