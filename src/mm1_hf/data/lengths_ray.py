"""Lengths measured on many machines: Ray Data hands out the shards, nothing else.

Needs `pip install "ray[data]"`, and a folder and source that every machine sees.
"""

import os
from typing import TYPE_CHECKING, Any

from mm1_hf.data.array_files import read_meta
from mm1_hf.data.lengths import DocumentLengths
from mm1_hf.data.measuring import (
    OnError,
    Shard,
    fingerprint,
    measure_shard,
    merge_shards,
    plan_shards,
)

if TYPE_CHECKING:
    from mm1_hf.data.sources.contract import Source
    from mm1_hf.model.processing_mm1 import MM1Processor


def measure_lengths_with_ray(
    source: "Source",
    processor: "MM1Processor",
    folder: str | os.PathLike,
    *,
    documents_per_shard: int = 50_000,
    on_error: OnError = "raise",
    num_cpus: float = 1,
    max_image_tokens: int | None = None,
) -> DocumentLengths:
    """`measuring.measure_lengths` on the Ray cluster this process is connected to.

    A shard is one task. Shards that a killed run finished are not measured again, so starting anew
    continues.

    Args:
        source: The documents; pickled and sent to the machines.
        processor: Tokenises, and knows what images become.
        folder: Where the lengths are kept; on a file system that all machines share.
        documents_per_shard: Documents of a task.
        on_error: As for `measure_lengths`.
        num_cpus: Cores of a task.
        max_image_tokens: As for `measure_lengths`.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: As `measure_lengths`.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            'Measuring on many machines needs Ray: pip install "ray[data]". On one machine use '
            "measure_lengths(num_processes=...)."
        ) from error
    wanted = fingerprint(source, processor, max_image_tokens=max_image_tokens)
    if read_meta(folder) is None:
        shards = plan_shards(
            source, os.path.abspath(folder), documents_per_shard=documents_per_shard
        )
        # Sent once, not with every task.
        shared = ray.put((source, processor))

        def measure(row: dict[str, Any]) -> dict[str, Any]:
            own_source, own_processor = ray.get(shared)
            measure_shard(
                own_source,
                own_processor,
                Shard(**row),
                on_error=on_error,
                max_image_tokens=max_image_tokens,
            )
            return row

        if shards:
            tasks = ray.data.from_items(
                [shard._asdict() for shard in shards], override_num_blocks=len(shards)
            )
            tasks.map(measure, num_cpus=num_cpus).materialize()
        merge_shards(shards, folder, fingerprint=wanted)
    return DocumentLengths.open(folder, fingerprint=wanted)
