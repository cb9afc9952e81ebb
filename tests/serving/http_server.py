"""A server of a test: start a program, wait for its port, ask it, stop it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .conftest import child_environment

# The command without its script, which need not be on the path.
MM1 = [sys.executable, "-c", "import sys; from mm1_hf.cli import main; sys.exit(main())"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A running server: where it is, and how it ended."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.port, self.log = process, port, log

    def post(self, path: str, body: dict) -> tuple[int, str]:
        """Status and text of the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def is_up(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    arguments: list[str], *, health: str, log: Path, seconds: int = 240
) -> Iterator[Server]:
    """Start `mm1` with these arguments and a free port, until the block ends."""
    port = free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*MM1, *arguments, "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(),
        )
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + seconds
        while not server.is_up(health):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"not up after {seconds} s: {log.read_text()}"
            time.sleep(0.2)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


def streamed(text: str) -> list[dict]:
    """The events of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line[:6] == "data: "]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(model: str, content: list[dict], **settings) -> dict:
    """A request for a greedy answer."""
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **settings}
