"""`mm1 serve` answers over HTTP what `generate` answers, and refuses what it must not read."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mm1_hf.cli import main
from mm1_hf.serving import require_allowed_pictures

from .conftest import data_url, noise
from .http_server import chat, serving, streamed


def request(source: str) -> dict:
    return chat("m", [{"type": "image_url", "image_url": {"url": source}}])


@pytest.mark.parametrize(
    "source", ["/etc/passwd", "file:///etc/passwd", "picture.png", "http://169.254.169.254/x", ""]
)
def test_pictures_of_a_request_come_with_it(source):
    require_allowed_pictures(request("data:image/png;base64,AAAA"), "data")
    with pytest.raises(ValueError, match="but a data URL is expected"):
        require_allowed_pictures(request(source), "data")
    # The other forms in which the servers take a picture.
    for part in ({"type": "input_image", "image_url": source}, {"type": "image", "image": source}):
        with pytest.raises(ValueError, match="a data URL is expected"):
            require_allowed_pictures({"input": [{"content": [part]}]}, "data")


def test_addresses_are_fetched_only_where_that_is_wanted():
    require_allowed_pictures(request("https://example.com/cat.png"), "web")
    with pytest.raises(ValueError, match="a data URL or an http address"):
        require_allowed_pictures(request("file:///etc/passwd"), "web")


def test_text_that_looks_like_an_address_is_text():
    require_allowed_pictures(chat("m", [{"type": "text", "text": "/etc/passwd"}]), "data")
    require_allowed_pictures({"prompt": "http://example.com"}, "data")


def test_missing_packages_are_named_with_the_command(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", str(checkpoint)]) == 2
    assert "pip install 'mm1-hf[serve]'" in capsys.readouterr().err
    assert main(["serve", str(checkpoint), "--engine", "vllm"]) == 2
    message = capsys.readouterr().err
    assert "pip install vllm" in message and message.count("\n") == 1


def test_wrong_arguments_are_one_line(checkpoint, capsys):
    assert main(["serve", "no/such/folder"]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["serve", str(checkpoint), "--vllm-option", "enforce-eager"]) == 2
    assert "--vllm-option needs --engine vllm" in capsys.readouterr().err


@pytest.mark.slow
def test_the_server_answers_as_generate_does_and_stops_cleanly(checkpoint, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    first, second = noise(60, 40), noise(30, 30, seed=1)
    content = [
        {"type": "text", "text": "What is "},
        {"type": "image", "image": first},
        {"type": "text", "text": " beside <image> and "},
        {"type": "image", "image": second},
    ]
    expected, prompt_tokens = greedy(checkpoint, content)
    sent = [
        part
        if part["type"] == "text"
        else {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
        for part in content
    ]
    model = str(checkpoint)
    arguments = ["serve", model, "--device", "cpu"]
    with serving(arguments, health="/health", log=tmp_path / "log") as server:
        status, text = server.post("/v1/chat/completions", chat(model, sent))
        answer = json.loads(text)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, expected)
        assert answer["usage"]["prompt_tokens"] == prompt_tokens

        status, text = server.post("/v1/chat/completions", chat(model, sent, stream=True))
        pieces = [event["choices"][0]["delta"].get("content", "") for event in streamed(text)]
        assert (status, "".join(pieces)) == (200, expected)
        assert sum(piece != "" for piece in pieces) > 1

        for source, message in {
            "data:image/png;base64,AAAA": "no readable picture",
            "/etc/hostname": "a data URL is expected",
        }.items():
            status, text = server.post("/v1/chat/completions", request(source) | {"model": model})
            assert status == 400 and message in json.loads(text)["error"]["message"]
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def greedy(checkpoint, content) -> tuple[str, int]:
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return processor.decode(tokens[0, length:], skip_special_tokens=True), length
