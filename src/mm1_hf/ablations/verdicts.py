"""Verdicts over findings: what the intervals of a study's seeds decide; see `findings`."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mm1_hf.ablations.findings import Claim, Finding
from mm1_hf.ablations.results import Results
from mm1_hf.ablations.statistics import Interval, t_interval

Answer = Literal["holds", "fails", "open"]
Ruling = Literal["reproduced", "not reproduced", "cannot tell"]


class JudgedClaim(NamedTuple):
    """A claim with its interval and answer."""

    claim: Claim
    interval: Interval
    answer: Answer


class Verdict(NamedTuple):
    """A finding with its claims and the ruling."""

    finding: Finding
    claims: tuple[JudgedClaim, ...]
    ruling: Ruling


def judge_claim(claim: Claim, results: Results) -> JudgedClaim:
    """Take the number of every seed that has all points, and decide."""
    by_point = {point: results.values(point, claim.figure) for point in claim.points}
    seeds = sorted(set.intersection(*(set(values) for values in by_point.values())))
    interval = t_interval(
        [
            claim.number({point: values[seed] for point, values in by_point.items()})
            for seed in seeds
        ]
    )
    return JudgedClaim(claim, interval, _answer(interval, claim))


def judge(findings: Sequence[Finding], results: Results) -> list[Verdict]:
    """A verdict for each finding."""
    verdicts = []
    for finding in findings:
        judged = tuple(judge_claim(claim, results) for claim in finding.claims)
        answers = {one.answer for one in judged}
        ruling: Ruling = "cannot tell"
        if "fails" in answers:
            ruling = "not reproduced"
        elif answers == {"holds"}:
            ruling = "reproduced"
        verdicts.append(Verdict(finding, judged, ruling))
    return verdicts


def describe(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as Markdown: the ruling, and below it every claim with its numbers."""
    lines: list[str] = []
    for finding, judged, ruling in verdicts:
        lines += [f"**{finding.number}. {finding.text}** {finding.source}: **{ruling}**", ""]
        lines += ["| claim | difference | 95 % interval | n | |", "|---|---:|---:|---:|---|"]
        for claim, interval, answer in judged:
            lines.append(
                f"| {claim.text} | {_number(interval.mean)} | "
                f"{_number(interval.low)} to {_number(interval.high)} | {interval.n} | "
                f"{answer} |"
            )
        lines.append("")
        if finding.untested:
            lines += [f"Not tested: {finding.untested}", ""]
    return "\n".join(lines).rstrip() + "\n"


def as_data(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as plain data."""
    return [
        {
            "finding": finding.number,
            "text": finding.text,
            "ruling": ruling,
            "claims": [
                {
                    "text": claim.text,
                    "figure": claim.figure,
                    "mean": _finite(interval.mean),
                    "low": _finite(interval.low),
                    "high": _finite(interval.high),
                    "n": interval.n,
                    "answer": answer,
                }
                for claim, interval, answer in judged
            ],
        }
        for finding, judged, ruling in verdicts
    ]


def _answer(interval: Interval, claim: Claim) -> Answer:
    low, high, bound = interval.low, interval.high, claim.bound
    if claim.kind == "above":
        return "holds" if low > bound else "fails" if high < bound else "open"
    if -bound < low and high < bound:
        return "holds"
    return "fails" if low > bound or high < -bound else "open"


def _number(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "–"


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
