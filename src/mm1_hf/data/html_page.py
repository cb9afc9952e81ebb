"""What the pages of packs and of answers share: a page without scripts, and text shown as it is."""

import base64
import io
from collections.abc import Iterable
from html import escape
from string import Template

from PIL import Image

# PNG is exact but several times larger; on photographs nobody sees the difference. Our choice.
_LARGEST_PNG_SIDE = 64
_JPEG_QUALITY = 90

# Control characters have no shape of their own, and some are not allowed in HTML.
_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_CONTROL_PICTURES[0x7F] = "\u2421"

_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
"""
)


def html_page(title: str, body: Iterable[str], *, style: str) -> str:
    """A whole page, which opens without a network and runs nothing.

    Args:
        title: Text of the title and the heading.
        body: Parts of the page, as HTML.
        style: Its style sheet.
    """
    return _PAGE.substitute(title=html_text(title), style=style, body="\n".join(body))


def html_text(text: str) -> str:
    """Text as HTML: marks escaped, control characters made visible.

    Keys of damaged archives may hold what UTF-8 cannot; it becomes question marks.
    """
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    return escape(encodable.translate(_CONTROL_PICTURES))


def html_picture(picture: Image.Image) -> str:
    """A picture as a data URI: PNG where it is tiny, JPEG else."""
    file = io.BytesIO()
    if max(picture.size) <= _LARGEST_PNG_SIDE:
        kind = "png"
        picture.save(file, "PNG")
    else:
        kind = "jpeg"
        picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
