"""Documents by index, out of files of the usual kinds."""

from mm1_hf.data.sources.contract import Converter, Source
from mm1_hf.data.sources.dataset import DatasetSource
from mm1_hf.data.sources.jsonl import JsonlSource
from mm1_hf.data.sources.memory import MemorySource
from mm1_hf.data.sources.parquet import ParquetSource
from mm1_hf.data.sources.tar import TarSource

__all__ = [
    "Converter",
    "DatasetSource",
    "JsonlSource",
    "MemorySource",
    "ParquetSource",
    "Source",
    "TarSource",
]
