"""The tables of `compare.py`, and its targets beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from measure import Target, figure, ratio, spread, targets

_GENAI = "genai's graph", "genai's graph, edgers' session options"


def report(result: dict[str, Any]) -> str:
    """One thread count's results for people."""
    pipelines, samples = result["pipelines"], result["samples"]
    lines = [
        f"## {result['threads']} thread{'s' if result['threads'] > 1 else ''}",
        "",
        targets(_targets(result)),
        "",
        f"Encode and prefill: {result['gflop_per_sample']:.3f} GFLOP a sample, "
        f"{spread(_speeds(result))} GFLOP/s; the sgemm peak is {pipelines['peak_gflops']:.0f} GFLOP/s.",
        "",
        *_table("pipeline", pipelines, "samples/s", lambda seconds: f"{samples / seconds:.1f}"),
    ]
    if pipelines["not_compiled_because"]:
        lines += [f"Not compiled: {pipelines['not_compiled_because']}", ""]
    lines += _table("decoder", result["decoders"], "chunks/s", lambda seconds: f"{1 / seconds:.2f}")
    lines += _table("certificate", result["certificates"], "a minute", lambda seconds: f"{60 / seconds:.1f}")
    return "\n".join(lines)


def _targets(result: dict[str, Any]) -> list[Target]:
    pipelines, decoders = result["pipelines"], result["decoders"]["seconds"]
    genai = min((decoders[name] for name in _GENAI), key=statistics.median)
    eager = ratio(pipelines["seconds"]["eager"], pipelines["seconds"]["edgers"])
    shares = [speed / pipelines["peak_gflops"] for speed in _speeds(result)]
    return [
        Target("samples/s, in eager `generate`'s", eager, 1.5, least=True),
        Target(
            "decoder's time, in that of genai's graph", ratio(decoders["edgers' graph"], genai), 1.03, False
        ),
        Target("encode and prefill, of the sgemm peak", figure(shares), 0.82, least=True, form=".1%"),
        Target("time in which no graph runs", figure(pipelines["outside"]), 0.03, least=False, form=".1%"),
    ]


def _speeds(result: dict[str, Any]) -> list[float]:
    """GFLOP/s of each round."""
    work = result["samples"] * result["gflop_per_sample"]
    return [work / seconds for seconds in result["pipelines"]["begun_seconds"]]


def _table(what: str, part: dict[str, Any], unit: str, rate: Callable[[float], str]) -> list[str]:
    """One row a contender; the first is what the others are compared with."""
    seconds, equal = part["seconds"], part.get("equal")
    first = next(iter(seconds))
    lines = [
        f"| {what} | s | {unit} | times as long | {'equal answers' if equal else 'radius'} |",
        "|---|---|---|---|---|",
    ]
    for name, spent in seconds.items():
        median, low, high = ratio(spent, seconds[first])
        last = f"{equal[name]} of {part['of']}" if equal else _radius(part["radius"][name])
        lines.append(
            f"| {name} | {spread(spent)} | {rate(statistics.median(spent))} "
            f"| {median:.3f} ({low:.3f} to {high:.3f}) | {last} |"
        )
    return [*lines, ""]


def _radius(radius: float | None) -> str:
    return "abstains" if radius is None else f"{radius:.3f}"
