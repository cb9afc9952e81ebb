"""Processors around the small tokenizers."""

import pytest

from mm1_hf import MM1Processor

from .processors import make_config


@pytest.fixture(scope="session")
def make_processor(make_tokenizer):
    """`make_processor(kind or tokenizer, **settings)` makes a new processor of the tiny model."""

    def make(tokenizer="byte_level", **kwargs) -> MM1Processor:
        if isinstance(tokenizer, str):
            tokenizer = make_tokenizer(tokenizer)
        return MM1Processor.from_parts(tokenizer=tokenizer, config=make_config(), **kwargs)

    return make


@pytest.fixture(scope="module")
def processor(make_processor) -> MM1Processor:
    return make_processor()
