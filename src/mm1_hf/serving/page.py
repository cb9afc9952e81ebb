"""The page that tries a checkpoint: drop pictures into the text, see their tiles, read the answer.

Gradio is imported only when a page is built.
"""

import base64
import html
import io
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from mm1_hf.model.tiling_mm1 import TilePlan
from mm1_hf.serving.answering import Answerer, PromptCount
from mm1_hf.serving.page_editor import EDITOR_CSS, EDITOR_HTML, EDITOR_SCRIPT
from mm1_hf.serving.prompts import Picture, read_pieces

# Draws a picture with its tiles, given how many its grid may have at most.
DrawTiles = Callable[[Image.Image, int], Image.Image]

_STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto; }
.gradio-container .html-container { padding: 0 !important; }
#name h1 { margin: 0; font-size: 1.5rem; }
#name p { margin: 0; opacity: .7; overflow-wrap: anywhere; }
#problem p {
  margin: 0; padding: .6rem .9rem; border-radius: .5rem; color: #fff; background: #b3261e;
}
#answer textarea { font-size: 1.05rem; line-height: 1.6; }
#tiles table {
  width: 100%; border: 0 !important; border-collapse: collapse;
  font-variant-numeric: tabular-nums;
}
#tiles tbody, #tiles tr { border: 0 !important; }
#tiles th, #tiles td {
  padding: .35rem .3rem; text-align: right; white-space: nowrap; border: 0;
  border-bottom: 1px solid var(--border-color-primary);
}
#tiles th { font-weight: 500; opacity: .7; }
#tiles th:first-child, #tiles td:first-child { text-align: left; }
#tiles .sum td { font-weight: 600; }
#tiles .hint { opacity: .7; }
#tiles figure { margin: 1.2rem 0 0; }
#tiles img { width: 100%; border-radius: .4rem; background: #fff; padding: .3rem; }
#tiles figcaption { font-size: .9rem; opacity: .7; }
footer { display: none !important; }
"""
_EMPTY = '<p class="hint">The tiles and tokens of the prompt appear here.</p>'


class PageLogic:
    """What the page does, without the page.

    Args:
        answerer: The checkpoint.
        draw_tiles: Draws a picture with the borders of its tiles.
    """

    def __init__(self, answerer: Answerer, draw_tiles: DrawTiles):
        self.answerer = answerer
        self.draw_tiles = draw_tiles

    def show(self, raw_pieces: Any) -> str:
        """Counts and drawings of a prompt, as HTML.

        Raises:
            ValueError: If the prompt cannot be read or planned.
        """
        pieces = read_pieces(raw_pieces)
        count = self.answerer.count(pieces)
        pictures = [piece for piece in pieces if isinstance(piece, Picture)]
        figures = [
            _figure(self.draw_tiles(picture.image, plan.grid_tiles), number, picture.name)
            for number, (picture, plan) in enumerate(
                zip(pictures, count.plan.tiles, strict=True), 1
            )
        ]
        return count_table(count) + "".join(figures)

    def answer(self, raw_pieces: Any, max_new_tokens: int) -> Iterator[str]:
        """The answer so far, again and again.

        Raises:
            ValueError: If the prompt cannot be read, planned or answered.
        """
        yield from self.answerer.stream(read_pieces(raw_pieces), max_new_tokens=max_new_tokens)


def count_table(count: PromptCount) -> str:
    """Size, tiles and tokens of each picture, and the sums, as an HTML table."""
    plan = count.plan
    rows = [
        _row(f"picture {number}", f"{tiles.width} × {tiles.height}", _cut(tiles), tokens)
        for number, (tiles, tokens) in enumerate(zip(plan.tiles, plan.num_tokens, strict=True), 1)
    ]
    rows.append(_row("text", "", "", count.text_tokens))
    rows.append(_row("together", "", str(sum(plan.num_tiles)), count.total, style="sum"))
    if count.room is not None:
        rows.append(_row("left for the answer", "", "", max(0, count.room)))
    head = "<tr><th></th><th>pixels</th><th>tiles</th><th>tokens</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _row(name: str, pixels: str, tiles: str, tokens: int, *, style: str = "") -> str:
    cells = "".join(f"<td>{cell}</td>" for cell in (name, pixels, tiles, f"{tokens:,}"))
    return f'<tr class="{style}">{cells}</tr>'


def _cut(tiles: TilePlan) -> str:
    grid = f"{tiles.rows} × {tiles.cols}" if tiles.grid_tiles > 1 else "1"
    return grid if tiles.overview is None else f"{grid} + whole"


def _figure(drawing: Image.Image, number: int, name: str) -> str:
    buffer = io.BytesIO()
    drawing.save(buffer, "WEBP", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    caption = f"Picture {number}, {html.escape(name)}: its tiles, and what the encoder gets"
    return (
        f'<figure><img alt="{caption}" src="data:image/webp;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def build_page(logic: PageLogic, *, name: str) -> Any:
    """The page as a `gradio.Blocks`, not started yet.

    Args:
        logic: What it does.
        name: The checkpoint, as the page calls it.

    Raises:
        ValueError: If Gradio is missing.
    """
    try:
        import gradio as gr  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The page needs {error.name}. Install it with: pip install 'mm1-hf[web]'"
        ) from error

    def show(event: gr.EventData):
        pieces = event.pieces
        if not any(piece.get("type") == "image" or piece.get("text") for piece in pieces):
            return _EMPTY, ""
        try:
            return logic.show(pieces), ""
        except ValueError as error:
            return _EMPTY, _problem(error)

    def answer(max_new_tokens: int, event: gr.EventData):
        yield "", ""
        try:
            for text in logic.answer(event.pieces, max_new_tokens):
                yield text, ""
        except ValueError as error:
            yield "", _problem(error)

    with gr.Blocks(title="MM1", analytics_enabled=False) as page:
        gr.HTML(f"<h1>MM1</h1><p>{html.escape(name)}</p>", elem_id="name")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                editor = gr.HTML(
                    html_template=EDITOR_HTML,
                    css_template=EDITOR_CSS,
                    js_on_load=EDITOR_SCRIPT,
                    elem_id="prompt",
                )
                problem = gr.HTML(elem_id="problem")
                # Plain text: as Markdown, an answer could make the browser fetch pictures.
                result = gr.Textbox(
                    label="Answer", lines=4, max_lines=18, interactive=False, elem_id="answer"
                )
                length = gr.Slider(8, 1024, value=128, step=8, label="Longest answer, in tokens")
            with gr.Column(scale=2, min_width=320):
                tiles = gr.HTML(_EMPTY, elem_id="tiles")
        editor.change(show, None, [tiles, problem], trigger_mode="multiple")
        editor.submit(show, None, [tiles, problem])
        asked = editor.submit(answer, length, [result, problem])
        editor.stop(None, None, None, cancels=[asked])
        emptied = [tiles, problem, result]
        editor.clear(lambda: (_EMPTY, "", ""), None, emptied, cancels=[asked])
    return page


def _problem(error: ValueError) -> str:
    return f'<p role="alert">{html.escape(str(error))}</p>'


def open_page(page: Any, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve a page of `build_page` until the process is asked to stop.

    Args:
        page: The page.
        host: Address to listen on.
        port: Port to listen on; the first free one from 7860 by default.
    """
    page.launch(server_name=host, server_port=port, css=_STYLE, footer_links=[], ssr_mode=False)


__all__ = ["DrawTiles", "PageLogic", "build_page", "count_table", "open_page"]
