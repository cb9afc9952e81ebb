"""On a Ray cluster the same lengths come out, and a killed run is continued."""

import numpy as np
import pytest

from mm1_hf.data.documents import Document, Text
from mm1_hf.data.lengths_ray import measure_lengths_with_ray
from mm1_hf.data.measuring import measure_lengths, measure_shard, plan_shards
from mm1_hf.data.sources import MemorySource

from .small_corpus import make_processor

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def texts(count: int) -> MemorySource:
    documents = [
        Document(segments=(Text("word " * n),), key=str(n), source="texts", kind="text")
        for n in range(count)
    ]
    return MemorySource(documents, name="texts")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_measures_what_one_process_measures(cluster, tmp_path):
    source, processor = texts(20), make_processor()
    alone = measure_lengths(source, processor, tmp_path / "alone")
    shards = plan_shards(source, tmp_path / "ray", documents_per_shard=6)
    measure_shard(source, processor, shards[1])
    spread = measure_lengths_with_ray(source, processor, tmp_path / "ray", documents_per_shard=6)
    assert np.array_equal(alone.tokens, spread.tokens)
    assert np.array_equal(alone.offsets, spread.offsets)
