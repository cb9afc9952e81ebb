"""Right and wrong answers with their pictures, as one static page.

Figures say how often a model errs, and the page how. Like the page of packs it holds no script,
loads nothing, and forbids both to the browser, so that text of the web stays text.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from PIL.Image import Image

from mm1_hf.data.html_page import html_page, html_text
from mm1_hf.data.viewer_style import STYLE
from mm1_hf.evaluation.answers import Answer
from mm1_hf.evaluation.contract import Example
from mm1_hf.evaluation.few_shot import show_example
from mm1_hf.evaluation.images import thumbnail
from mm1_hf.evaluation.page_style import ANSWERS_STYLE
from mm1_hf.evaluation.questions import Questioner
from mm1_hf.evaluation.report import EvaluationResult, SeedResult, Summary
from mm1_hf.model.decoding_mm1 import ImageError

# A page of two hundred pictures has about 4 MB and still scrolls. Both numbers are our choice.
MOST_SHOWN = 200
_THUMBNAIL_SIDE = 320
_MOST_TRUTHS = 10

_VERDICTS = {"right": "✓ right", "part": "◐ partly right", "wrong": "✗ wrong"}
_REASONS = {
    "unreadable": "Not asked, a picture cannot be decoded.",
    "too_long": "Not asked, the prompt is too long.",
}


class _Shown(NamedTuple):
    """An answer on the page."""

    example: Example
    answer: Answer
    score: float

    @property
    def verdict(self) -> str:
        if self.score >= 1:
            return "right"
        return "part" if self.score > 0 else "wrong"


def render_page(
    result: EvaluationResult,
    questioner: Questioner,
    examples: Sequence[Example],
    *,
    demonstrations: Sequence[Example] = (),
    most: int = MOST_SHOWN,
) -> str:
    """A page of HTML with figures, counts, and the answers under the first seed.

    Args:
        result: The result.
        questioner: Who asked: gives prompts and decodes pictures.
        examples: What was asked.
        demonstrations: The split that demonstrations were drawn from.
        most: Answers to show at most. If there are more, half of them are right ones, as far as
            there are any, and each half is the first of its kind.
    """
    seed, asked = next(iter(result.per_seed.items()))
    shown = _choose(examples, asked, most=most)
    cards = [_render_answer(one, questioner, demonstrations) for one in shown]
    title = f"{result.task}, {result.settings['num_shots']} shots"
    body = [
        _render_figures(result),
        _render_counts(result),
        _render_filter(shown, asked, seed=seed),
        '<div class="answers">',
        *cards,
        "</div>",
        _render_settings(result),
    ]
    return html_page(title, body, style=STYLE + ANSWERS_STYLE)


def _choose(examples: Sequence[Example], asked: SeedResult, *, most: int) -> list[_Shown]:
    scores = asked.per_example
    right = [place for place, score in enumerate(scores) if score >= 1]
    other = [place for place, score in enumerate(scores) if not score >= 1]
    if len(scores) > most:
        num_right = max(min(len(right), most // 2), most - len(other))
        right, other = right[:num_right], other[: most - num_right]
    return [
        _Shown(examples[place], asked.answers[place], scores[place])
        for place in sorted([*right, *other])
    ]


def _render_answer(one: _Shown, questioner: Questioner, demonstrations: Sequence[Example]) -> str:
    answer, example = one.answer, one.example
    score = "" if one.verdict != "part" else f" ({one.score:.2f})"
    truths = Counter(example.answers).most_common()
    told = [html_text(text) + (f" ×{count}" if count > 1 else "") for text, count in truths]
    more = f" and {len(told) - _MOST_TRUTHS} more" if len(told) > _MOST_TRUTHS else ""
    rows = [("expected", " · ".join(told[:_MOST_TRUTHS]) + more or "<i>nothing given</i>")]
    if example.choices:
        rows.append(("choices", " · ".join(map(html_text, example.choices))))
    if example.group is not None:
        rows.append(("group", html_text(str(example.group))))
    said = html_text(answer.text) or "<i>nothing</i>"
    if answer.ending == "length":
        said += " <i>… cut at the limit of tokens</i>"
    if answer.status == "answered":
        note = ""
    else:
        reason = html_text(answer.reason or "")
        note = f'<p class="note"><b>{_REASONS[answer.status]}</b> {reason}</p>'
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return "\n".join(
        [
            f'<article class="{one.verdict}"><header><span class="verdict">'
            f"{_VERDICTS[one.verdict]}{score}</span> <code>{html_text(answer.key)}</code></header>",
            _render_prompt(example, questioner),
            note,
            f'<dl><dt>answer</dt><dd class="said">{said}</dd>{facts}</dl>',
            _render_demonstrations(answer, questioner, demonstrations),
            "</article>",
        ]
    )


def _render_prompt(example: Example, questioner: Questioner) -> str:
    """Texts and pictures as they are asked; the bare question where a picture is lost."""
    try:
        segments = questioner.segments(show_example(example, questioner.pictures).example)
    except ImageError:
        segments = [example.question]
    return "".join(
        f'<img src="{thumbnail(segment, side=_THUMBNAIL_SIDE)}" alt="picture of the question">'
        if isinstance(segment, Image)
        else f'<p class="text" dir="auto">{html_text(str(segment).strip())}</p>'
        for segment in segments
        if isinstance(segment, Image) or str(segment).strip()
    )


def _render_demonstrations(
    answer: Answer, questioner: Questioner, demonstrations: Sequence[Example]
) -> str:
    if not answer.demonstrations:
        return ""
    chosen = [demonstrations[index] for index in answer.demonstrations]
    entries = "".join(
        f"<li><code>{html_text(one.key)}</code> {html_text(one.question)} "
        f"<b>{html_text(questioner.task.answer(one))}</b></li>"
        for one in chosen
    )
    return f"<details><summary>{len(chosen)} demonstrations</summary><ol>{entries}</ol></details>"


def _render_figures(result: EvaluationResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html_text(name)}</th>{_cells(figure)}</tr>'
        for name, figure in result.figures.items()
    )
    heads = ("figure", "value", "standard error", "between seeds", "n")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    seeds = ", ".join(map(str, result.per_seed))
    caption = f"Mean over seeds {seeds}" if len(result.per_seed) > 1 else f"Seed {seeds}"
    return (
        f'<div class="wide"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(figure: Summary) -> str:
    numbers = (figure.value, figure.standard_error, figure.seed_deviation)
    told = ["–" if number is None else f"{number:.4f}" for number in numbers]
    return "".join(f"<td>{cell}</td>" for cell in (*told, f"{figure.count:,}"))


def _render_counts(result: EvaluationResult) -> str:
    parts = [
        f"<b>{count:,}</b> {name.replace('_', ' ')}"
        for name, count in asdict(result.counts).items()
        if count or name in ("examples", "answered", "empty")
    ]
    seeds = len(result.per_seed)
    over = f"Over {seeds} seeds: " if seeds > 1 else ""
    return f'<p class="facts">{over}{" · ".join(parts)}</p>'


def _render_filter(shown: Sequence[_Shown], asked: SeedResult, *, seed: int) -> str:
    counts = Counter(one.verdict for one in shown)
    options = [("all", "all", len(shown))]
    options += [(name, text, counts[name]) for name, text in _VERDICTS.items()]
    buttons = "".join(
        f'<label><input type="radio" name="only" id="only-{name}"'
        f"{' checked' if name == 'all' else ''}> {text} ({count})</label>"
        for name, text, count in options
        if count or name == "all"
    )
    some = f"{len(shown):,} of the {len(asked.answers):,} answers under seed {seed}"
    return f'<fieldset class="filter"><legend>{some}</legend>{buttons}</fieldset>'


def _render_settings(result: EvaluationResult) -> str:
    named = {"source": result.source, **result.settings, **result.versions}
    rows = "".join(
        f"<dt>{html_text(name)}</dt><dd>{html_text(_plain(value))}</dd>"
        for name, value in named.items()
    )
    return f'<section class="settings"><h2>Settings</h2><dl>{rows}</dl></section>'


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
