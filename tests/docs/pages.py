"""The pages of the documentation, and the blocks of code on them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"^(?: *<!-- (?P<mark>[^\n]*?) -->\n+)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Path of its page, relative to the root.
        line: Line on which its code begins.
        language: What stands behind the fence.
        code: Its lines, without the indentation of the fence.
        not_run: The reason given in `<!-- not run: reason -->` before it, or "".
        is_output: Whether `<!-- prints -->` before it says that the block of Python before prints
            these lines.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str
    is_output: bool

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page with a block of code, as paths relative to the root."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    files += sorted((ROOT / "examples").rglob("*.md"))
    return [file.relative_to(ROOT) for file in files if blocks(file.relative_to(ROOT))]


def blocks(page: Path) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        mark, indent = match["mark"] or "", match["indent"]
        lines = match["code"].splitlines()
        found.append(
            Block(
                page=str(page),
                line=text.count("\n", 0, match.start("code")) + 1,
                language=match["language"],
                code="\n".join(line.removeprefix(indent) for line in lines) + "\n",
                not_run=mark.removeprefix("not run: ") if mark.startswith("not run: ") else "",
                is_output=mark == "prints",
            )
        )
    return found
