"""Measures the lengths of a source: shard by shard, in as many processes or machines as there are.

One shard is one pure function from a range of documents to one folder of files. A finished folder
is never measured again, so a killed run continues where it was.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image as PILImage

from mm1_hf.data.array_files import ArrayFolder, open_array, read_meta
from mm1_hf.data.documents import Document, ImageSource, Text, open_image_file
from mm1_hf.data.encoding import EncodedDocument, encode_many, find_runs
from mm1_hf.data.lengths import (
    LENGTH_DTYPES,
    DocumentLengths,
    DocumentRuns,
    length_arrays,
    require_fresh,
)
from mm1_hf.model.decoding_mm1 import ImageError, read_image_size
from mm1_hf.model.tiling_mm1 import TILING_SETTINGS, num_image_tokens

if TYPE_CHECKING:
    from mm1_hf.data.sources.contract import Source
    from mm1_hf.model.processing_mm1 import MM1Processor

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

# Goes up when the numbers would come out differently for the same documents.
_FORMAT = 2
_BATCH = 64
_EXAMPLES_KEPT = 20


class Shard(NamedTuple):
    """Documents from `start` to `stop`, exclusive, measured into `folder`."""

    start: int
    stop: int
    folder: str


def fingerprint(
    source: "Source", processor: "MM1Processor", *, max_image_tokens: int | None = None
) -> str:
    """A hash of everything that lengths depend on.

    That is the source's own fingerprint, the tokenizer, the chat template, the tiling settings, the
    markers, the tokens per tile and `max_image_tokens`; not the padding or truncation that a
    tokenizer was last used with.
    """
    backend = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for passing in ("padding", "truncation"):
        backend.pop(passing, None)
    image_processor = processor.image_processor
    settings = {name: str(getattr(image_processor, name)) for name in TILING_SETTINGS}
    parts = [
        _FORMAT,
        source.fingerprint,
        backend,
        processor.tokenizer.eos_token_id,
        processor.chat_template,
        processor.image_token,
        processor.num_image_tokens,
        processor.markers,
        settings,
        max_image_tokens,
    ]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def measure_lengths(
    source: "Source",
    processor: "MM1Processor",
    folder: str | os.PathLike,
    *,
    num_processes: int = 0,
    documents_per_shard: int = 50_000,
    on_error: OnError = "raise",
    max_image_tokens: int | None = None,
) -> DocumentLengths:
    """Lengths of all documents of a source, from `folder` if they are there, else measured.

    A document is one sample: its images are planned together, as one call of the processor would.

    Args:
        source: The documents.
        processor: Tokenises, and knows what images become.
        folder: Where the lengths are kept. Shards that an earlier, killed run finished are used.
        num_processes: Processes that measure; 0 measures in this one.
        documents_per_shard: Documents between two points of restart.
        on_error: `"raise"`: a document or image header that cannot be read stops the measuring, and
            so does a conversation without an answer to learn. `"skip"`: such a document gets no
            tokens and such an image none, and both are counted in `meta.json` with their reasons.
            Planning counts the document as unusable.
        max_image_tokens: Most tokens of all images of one document, markers included; images get
            fewer tiles until they fit (`plan_sample`), which is logged and counted in `meta.json`
            and in `DocumentLengths.lowered`. A document of more images than fit with one tile each
            keeps these tiles, and is cut like any other. `None`: no image is lowered.

    Raises:
        ValueError: If the folder holds lengths of another source, tokenizer, template, tiling,
            markers or budget; with `"raise"`, if a document cannot be measured; names it.
    """
    _require_budget(max_image_tokens)
    wanted = fingerprint(source, processor, max_image_tokens=max_image_tokens)
    if read_meta(folder) is None:
        shards = plan_shards(source, folder, documents_per_shard=documents_per_shard)
        if num_processes == 0:
            for shard in shards:
                measure_shard(
                    source, processor, shard, on_error=on_error, max_image_tokens=max_image_tokens
                )
        else:
            _measure_in_processes(
                source, processor, shards, num_processes, on_error, max_image_tokens
            )
        merge_shards(shards, folder, fingerprint=wanted)
    lengths = DocumentLengths.open(folder, fingerprint=wanted)
    if lengths.num_lowered_images:
        logger.warning(
            "Source %r: %d images have fewer tiles than the settings ask for, because "
            "max_image_tokens is %d.",
            source.name,
            lengths.num_lowered_images,
            max_image_tokens,
        )
    return lengths


def plan_shards(
    source: "Source", folder: str | os.PathLike, *, documents_per_shard: int = 50_000
) -> list[Shard]:
    """Ranges of documents, each with the folder for its lengths."""
    parent = Path(folder).with_name(f"{Path(folder).name}.shards-{documents_per_shard}")
    return [
        Shard(start, min(start + documents_per_shard, len(source)), str(parent / f"{start:012d}"))
        for start in range(0, len(source), documents_per_shard)
    ]


def measure_shard(
    source: "Source",
    processor: "MM1Processor",
    shard: Shard,
    *,
    on_error: OnError = "raise",
    max_image_tokens: int | None = None,
) -> str:
    """Measure one shard and return its folder; does nothing if that is finished.

    Depends on nothing but its arguments: run it in any process, on any machine that sees the source
    and the folder, in any order.
    """
    _require_budget(max_image_tokens)
    wanted = fingerprint(source, processor, max_image_tokens=max_image_tokens)
    meta = read_meta(shard.folder)
    if meta is not None:
        require_fresh(meta, wanted, shard.folder)
        return shard.folder
    problems: Counter[str] = Counter()
    examples: list[str] = []
    lowered_images = 0
    with ArrayFolder(shard.folder, LENGTH_DTYPES) as files:
        for first in range(shard.start, shard.stop, _BATCH):
            last = min(first + _BATCH, shard.stop)
            found = [
                _measure(name, encoded, processor, on_error, max_image_tokens)
                for name, encoded in _encode_range(source, processor, first, last, on_error)
            ]
            for measured in found:
                for kind, text in measured.problems:
                    problems[kind] += 1
                    examples += [text] if len(examples) < _EXAMPLES_KEPT else []
            counts = np.array([len(measured.runs.tokens) for measured in found])
            columns: Any = zip(*(measured.runs for measured in found), strict=True)
            runs = DocumentRuns(*(np.concatenate(column) for column in columns))
            lowered = np.array([measured.lowered for measured in found])
            lowered_images += int(lowered.sum())
            for name, values in length_arrays(runs, counts, lowered=lowered).items():
                files.append(name, values)
        files.meta = {
            "fingerprint": wanted,
            "documents": shard.stop - shard.start,
            "unreadable": dict(problems),
            "lowered": {"images": lowered_images},
            "examples": examples,
        }
    return shard.folder


def merge_shards(shards: Sequence[Shard], folder: str | os.PathLike, *, fingerprint: str) -> None:
    """Join finished shards into `folder` and delete them.

    Raises:
        ValueError: If a shard is unfinished or has another fingerprint.
    """
    dtypes = {name: dtype for name, dtype in LENGTH_DTYPES.items() if name != "run_counts"}
    problems: Counter[str] = Counter()
    examples: list[str] = []
    lowered: Counter[str] = Counter({"images": 0})
    with ArrayFolder(folder, dtypes | {"offsets": np.int64}) as files:
        files.append("offsets", np.zeros(1))
        end = 0
        for shard in shards:
            meta = read_meta(shard.folder)
            if meta is None:
                raise ValueError(
                    f"The shard {shard.folder} is not finished. Measure it with measure_shard, "
                    "then merge."
                )
            require_fresh(meta, fingerprint, shard.folder)
            for name in dtypes:
                files.append(name, open_array(shard.folder, name))
            ends = end + np.cumsum(open_array(shard.folder, "run_counts"), dtype=np.int64)
            files.append("offsets", ends)
            end = int(ends[-1])
            problems.update(meta["unreadable"])
            lowered.update(meta["lowered"])
            examples += meta["examples"][: _EXAMPLES_KEPT - len(examples)]
        files.meta = {
            "fingerprint": fingerprint,
            "documents": sum(shard.stop - shard.start for shard in shards),
            "unreadable": dict(problems),
            "lowered": dict(lowered),
            "examples": examples,
        }
    for shard in shards:
        shutil.rmtree(shard.folder)
    for parent in {Path(shard.folder).parent for shard in shards}:
        if not any(parent.iterdir()):
            parent.rmdir()


class _Measured(NamedTuple):
    runs: DocumentRuns
    problems: list[tuple[str, str]]
    lowered: int = 0


_NO_RUNS = DocumentRuns(
    np.zeros(0, np.int32), np.zeros(0, np.bool_), np.zeros(0, np.int16), np.zeros(0, np.int32)
)


def _encode_range(
    source: "Source",
    processor: "MM1Processor",
    start: int,
    stop: int,
    on_error: OnError,
) -> Iterator[tuple[str, EncodedDocument | Exception]]:
    """Names of documents and their tokens: encoded together, or each alone if one cannot be."""
    try:
        documents = [source[index] for index in range(start, stop)]
        encoded = encode_many(documents, processor)
        for document, tokens in zip(documents, encoded, strict=True):
            _require_answer(document, tokens)
        names = [f"document {d.key!r} of source {source.name!r}" for d in documents]
        yield from zip(names, encoded, strict=True)
        return
    # Sources and formats raise errors of many kinds; what to do about them is one decision.
    except Exception:
        if on_error == "raise":
            raise
    for index in range(start, stop):
        name = f"document {index} of source {source.name!r}"
        try:
            document = source[index]
            name = f"document {document.key!r} of source {source.name!r}"
            encoded = encode_many([document], processor)[0]
            _require_answer(document, encoded)
            yield name, encoded
        except Exception as error:
            yield name, error


def _require_answer(document: Document, encoded: EncodedDocument) -> None:
    """Raise `ValueError` for a conversation that has nothing to learn.

    The end of an empty answer would be a target, but a model that learns it learns to be silent.
    """
    if document.kind != "conversation":
        return
    answers = [s for s in document.segments if isinstance(s, Text) and s.role == "assistant"]
    if any(answer.text.strip() for answer in answers) and encoded.supervised.any():
        return
    roles = {segment.role for segment in document.segments}
    found = "only empty answers" if "assistant" in roles else "no turn of the assistant"
    if any(answer.text.strip() for answer in answers):
        found = "answers, but no token of them inside the template's generation marks"
    raise ValueError(
        f"Document {document.key!r} of source {document.source!r}: the conversation has {found}, "
        "so no token of it would be learned. Add an answer, remove the row, or pass "
        "errors=ErrorPolicy(mode='skip') to leave out such rows and count them."
    )


def _measure(
    name: str,
    encoded: EncodedDocument | Exception,
    processor: "MM1Processor",
    on_error: OnError,
    max_image_tokens: int | None,
) -> _Measured:
    if isinstance(encoded, Exception):
        return _Measured(_NO_RUNS, [("documents", f"{name}: {encoded}")])
    problems = []
    sizes: dict[int, tuple[int, int]] = {}
    for number, image in enumerate(encoded.images):
        try:
            sizes[number] = _read_size(image, f"image {number} of {name}")
        except ImageError as error:
            if on_error == "raise":
                raise
            problems.append(("images", str(error)))
    budget = max_image_tokens
    if budget is not None:
        budget = max(budget, num_image_tokens(len(sizes), processor.num_image_tokens))
    try:
        plan = processor.plan(list(sizes.values()), max_image_tokens=budget, name=name)
    except ValueError as error:
        if on_error == "raise":
            raise
        return _Measured(_NO_RUNS, [*problems, ("documents", str(error))])
    tokens, tiles = np.zeros((2, len(encoded.images)), dtype=np.int64)
    tokens[list(sizes)], tiles[list(sizes)] = plan.num_tokens, plan.num_tiles
    runs = find_runs(encoded, tokens.tolist())
    run_tiles = np.zeros(len(runs.tokens), dtype=np.int64)
    run_tiles[runs.is_image] = tiles
    measured = DocumentRuns(runs.tokens, runs.is_image, run_tiles, runs.targets)
    return _Measured(measured, problems, len(plan.lowered))


def _require_budget(max_image_tokens: int | None) -> None:
    if max_image_tokens is not None and max_image_tokens < 1:
        raise ValueError(
            f"max_image_tokens is {max_image_tokens}, but a number of at least 1 is expected, or "
            "None for no budget."
        )


def _read_size(image: ImageSource, name: str) -> tuple[int, int]:
    """Upright height and width; of a file only the header is read."""
    try:
        if image["bytes"] is not None:
            return read_image_size(image["bytes"], name=name)
        with open_image_file(image) as file, PILImage.open(file) as opened:
            return read_image_size(opened, name=name)
    except ImageError:
        raise
    # Pillow's readers raise whatever a damaged header leads them to.
    except Exception as error:
        raise ImageError(
            f"{name[:1].upper()}{name[1:]} ({image['path']}) is no readable picture ({error!r}). "
            "Remove it, repair the file, or measure with on_error='skip'."
        ) from error


def _measure_in_processes(
    source: "Source",
    processor: "MM1Processor",
    shards: list[Shard],
    num_processes: int,
    on_error: OnError,
    max_image_tokens: int | None,
) -> None:
    # Spawned, not forked: a tokenizer that has used its threads may hang in a forked child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_enter) as pool:
        futures = [
            pool.submit(
                measure_shard,
                source,
                processor,
                shard,
                on_error=on_error,
                max_image_tokens=max_image_tokens,
            )
            for shard in shards
        ]
        for future in futures:
            future.result()


def _enter() -> None:
    # One process per core is already as many as there are cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
