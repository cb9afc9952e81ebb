"""`transformers serve` for an MM1: the same server and the same answers, without its gaps.

Two gaps are closed. Wrong input is answered with status 400 and what is wrong with it, not with an
unexplained 500. And a request cannot make the server read its own files or, unless that is wanted,
fetch addresses.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

from mm1_hf.serving.announcing import announce_to_transformers
from mm1_hf.serving.vllm_server import ImageSources

_NEEDED = ("fastapi", "openai", "uvicorn")
_PICTURE_KEYS = ("image_url", "image")


def serve_with_transformers(
    checkpoint: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    dtype: str = "auto",
    image_sources: ImageSources = "data",
) -> None:
    """Serve a checkpoint until the process is asked to stop.

    Args:
        checkpoint: Folder or Hub id; `@` and a revision may follow an id.
        host: Address to listen on.
        port: Port to listen on.
        device: Device of the model, or `"auto"`.
        dtype: Name of a torch dtype, or `"auto"` for that of the weights.
        image_sources: `"data"`: pictures come inside the request. `"web"`: the server also fetches
            the http addresses in a request, whatever they are.

    Raises:
        ValueError: If a package is missing, or the model cannot be loaded.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"Serving needs {', '.join(missing)}. Install with: pip install 'mm1-hf[serve]'"
        )
    announce_to_transformers()
    from fastapi import Request  # pyright: ignore[reportMissingImports]
    from fastapi.responses import JSONResponse  # pyright: ignore[reportMissingImports]
    from transformers.cli.serve import Serve

    def refuse(request: Request, error: Exception) -> JSONResponse:
        message = {"message": str(error), "type": "invalid_request_error"}
        return JSONResponse({"error": message}, status_code=400)

    async def check_addresses(request: Request, call_next):
        if request.method == "POST" and "json" in request.headers.get("content-type", ""):
            try:
                require_allowed_pictures(await request.json(), image_sources)
            except ValueError as error:
                return refuse(request, error)
        return await call_next(request)

    class Server(Serve):
        """`Serve` asks itself to start once its application stands; that is where ours comes in."""

        def start_server(self) -> None:
            app: Any = self.server.config.app
            app.add_exception_handler(ValueError, refuse)
            app.middleware("http")(check_addresses)
            self.server.run()

    try:
        Server(
            force_model=checkpoint,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            non_blocking=True,
        )
    except KeyboardInterrupt:
        pass  # uvicorn has shut down in order and passes the signal on


def require_allowed_pictures(body: Any, image_sources: ImageSources) -> None:
    """Check where the pictures of a request come from.

    Raises:
        ValueError: If a picture is a file of the server, or an address where none are allowed.
    """
    for source in _picture_sources(body):
        if source.startswith("data:"):
            continue
        if image_sources == "web" and source.startswith(("http://", "https://")):
            continue
        allowed = "a data URL" if image_sources == "data" else "a data URL or an http address"
        raise ValueError(
            f"A picture is given as {source[:60]!r}, but {allowed} is expected. Send the picture "
            "itself as data:image/png;base64,…"
        )


def _picture_sources(value: Any) -> Iterator[str]:
    """Every string that a nested request gives as a picture."""
    if isinstance(value, list):
        for entry in value:
            yield from _picture_sources(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key in _PICTURE_KEYS:
                source = entry.get("url") if isinstance(entry, dict) else entry
                if isinstance(source, str):
                    yield source
            else:
                yield from _picture_sources(entry)


__all__ = ["require_allowed_pictures", "serve_with_transformers"]
