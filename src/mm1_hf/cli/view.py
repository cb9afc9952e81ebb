"""`mm1 view`: packs of training data as a page to look at."""

import argparse
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mm1_hf.data import Source

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<rest>.+)", re.DOTALL)
_WEIGHTED = re.compile(r"(?P<rest>.+):(?P<weight>\d+(?:\.\d+)?)", re.DOTALL)
_PACKS = re.compile(r"(?:(\d+):)?(\d+)")
_UNITS = ("sequence", "document", "token")
_SUFFIXES = (".tar", ".parquet", ".jsonl")


class _Data(NamedTuple):
    name: str
    path: str
    weight: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        type=_parse_data,
        metavar="[NAME=]PATH[:WEIGHT]",
        help="tar shards, parquet or JSON Lines: a file, a glob, a URL, or a folder of one kind; "
        "or a folder that datasets saved. The name is that of the file, the weight 1",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="where images are that the data name (default: beside JSON Lines)",
    )
    parser.add_argument(
        "--processor", required=True, metavar="PATH", help="folder or Hub id of an MM1 processor"
    )
    parser.add_argument(
        "--packs",
        type=_parse_packs,
        default=range(4),
        metavar="START:STOP",
        help="which packs, or the number of one (default: 0:4)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("packs.html"),
        help="file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--unit", choices=_UNITS, default="sequence", help="what weights count (default: sequence)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--sequence-length", type=int, default=4096, help="default: %(default)s")
    parser.add_argument("--max-images", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keeps lengths and plan for the next time (default: nothing is kept)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Plan the packs, write the page, say where it is."""
    try:
        from mm1_hf.data import ErrorPolicy, Mixture, PackedDataset
        from mm1_hf.data.viewer import render_page
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Reading data needs {error.name}. Install it with: pip install 'mm1-hf[train]'"
        ) from error
    names = [data.name for data in arguments.data]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"The name {repeated[0]!r} occurs more than once. Give each its own as NAME=PATH."
        )
    processor = _load_processor(arguments.processor)
    with ExitStack() as stack:
        cache = arguments.cache
        if cache is None:
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mm1-view-")))
        weights = {
            _open_source(data, images=arguments.images, index_folder=cache / "indices"): data.weight
            for data in arguments.data
        }
        dataset = PackedDataset(
            Mixture(weights, unit=arguments.unit, seed=arguments.seed),
            processor,
            num_sequences=arguments.packs.stop,
            cache_folder=cache,
            sequence_length=arguments.sequence_length,
            max_images=arguments.max_images,
            # A page is there to show what is wrong, however much it is.
            errors=ErrorPolicy(mode="skip", budget_per_source=sys.maxsize),
        )
        title = f"Packs of {', '.join(names)}"
        page = render_page(dataset, arguments.packs, title=title)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page, encoding="utf-8")
    print(f"{arguments.output} ({len(page) / 1e6:.1f} MB)")


def _parse_data(text: str) -> _Data:
    """Read `[NAME=]PATH[:WEIGHT]`; a path that exists as it stands is taken as it stands."""
    if Path(text).exists():
        return _Data(_name(text), text, 1.0)
    name, path, weight = None, text, 1.0
    if named := _NAMED.fullmatch(path):
        name, path = named["name"], named["rest"]
    if not Path(path).exists() and (weighted := _WEIGHTED.fullmatch(path)):
        path, weight = weighted["rest"], float(weighted["weight"])
    return _Data(name or _name(path), path, weight)


def _name(path: str) -> str:
    """Name of the file without its ending; of a glob, that of the last part that is spelt out."""
    parts = [part for part in Path(path).parts if not re.search(r"[*?\[]", part)]
    return Path(parts[-1]).stem if parts else path


def _parse_packs(text: str) -> range:
    match = _PACKS.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither START:STOP, as 0:4, nor a number")
    last = int(match[2])
    packs = range(last, last + 1) if match[1] is None else range(int(match[1]), last)
    if not packs:
        raise argparse.ArgumentTypeError(f"{text!r} has no packs: STOP must be larger than START")
    return packs


def _open_source(data: _Data, *, images: Path | None, index_folder: Path) -> "Source":
    """The source of a path, told by its ending or by what is in the folder."""
    from mm1_hf.data import JsonlSource, ParquetSource, TarSource

    suffix = _suffix(data.path)
    if suffix == "dataset":
        import datasets

        from mm1_hf.data import DatasetSource

        return DatasetSource(
            datasets.Dataset.load_from_disk(data.path), name=data.name, images=images
        )
    if suffix == ".parquet":
        return ParquetSource(data.path, name=data.name, images=images)
    # Looking at data leaves nothing beside it.
    kind = TarSource if suffix == ".tar" else JsonlSource
    return kind(data.path, name=data.name, images=images, index_folder=index_folder)


def _suffix(path: str) -> str:
    """One of `_SUFFIXES`, or `"dataset"`."""
    folder = Path(path)
    if not folder.is_dir():
        suffix = path[path.rfind(".") :]
        if suffix in _SUFFIXES:
            return suffix
        raise ValueError(
            f"{path!r} is no folder and does not end in {', '.join(_SUFFIXES)}, so what it holds "
            "cannot be told. Check the path, or name the files."
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return "dataset"
    found = [suffix for suffix in _SUFFIXES if any(folder.rglob(f"*{suffix}"))]
    if len(found) != 1:
        raise ValueError(
            f"The folder {path!r} has files of {len(found)} of the kinds {', '.join(_SUFFIXES)}, "
            "but of one is expected. Name the files, as folder/*.tar."
        )
    return found[0]


def _load_processor(source: str):
    folder = Path(source)
    if folder.is_dir() and not (folder / "processor_config.json").is_file():
        raise ValueError(
            f"The folder {source!r} has no processor_config.json. Give the folder of a model or "
            "processor, such as runs/demo/model."
        )
    if not folder.is_dir() and (
        folder.is_absolute() or source.startswith(".") or source.count("/") != 1
    ):
        raise ValueError(
            f"There is no folder {source!r}. Give the folder of a processor, or a Hub id such as "
            "owner/name."
        )
    from transformers import AutoProcessor, logging

    logging.set_verbosity_error()
    return AutoProcessor.from_pretrained(source)
