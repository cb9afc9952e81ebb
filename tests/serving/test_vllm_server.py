"""The command line of vLLM's server says what keeps its answers those of `generate`."""

import pytest
from transformers import AutoProcessor

from mm1_hf.serving import escaping_chat_template, images_depend_on_neighbours, vllm_command


@pytest.fixture
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


def test_caches_by_picture_are_off_exactly_where_neighbours_matter(processor):
    caches = ["--mm-processor-cache-gb", "0", "--no-enable-prefix-caching"]
    for tiling, markers, depends in (
        ("none", "none", False),
        ("static", "none", False),
        ("static", "separators", False),
        ("dynamic", "none", True),
        ("static", "index", True),
    ):
        processor.image_processor.tiling, processor.markers = tiling, markers
        assert images_depend_on_neighbours(processor) is depends
        command = vllm_command("model", processor)
        assert (command[-3:] == caches) is depends


def test_the_command_names_model_address_template_and_options(processor):
    command = vllm_command("model", processor, port=8123, options=["max-model-len=256"])
    given = dict(zip(command[3::2], command[4::2], strict=False))
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert given["--model"] == "model" and given["--host"] == "127.0.0.1"
    assert given["--port"] == "8123" and given["--model-impl"] == "transformers"
    assert given["--chat-template"] == escaping_chat_template(processor)
    assert given["--chat-template-content-format"] == "openai"
    assert command[-1] == "--max-model-len=256"


def test_addresses_are_fetched_only_where_that_is_wanted(processor):
    assert "--allowed-media-domains" in vllm_command("model", processor)
    command = vllm_command("model", processor, image_sources="web")
    assert "--allowed-media-domains" not in command
