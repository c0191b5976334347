"""A certificate as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgers.advice import advice, floored, meaning, of_the_label
from edgers.certificate import Certificate
from edgers.ending import ONE_PART
from edgers.smoothing.oracle_error import Audit
from edgers_engines.errors import printable

_BAR = 24
_CLASSES = 8


def certificate_panel(certificate: Certificate, title: str) -> Panel:
    """Verdict, meaning, votes, evidence and advice."""
    c = certificate
    verdict = (
        Text(printable(f"certified {c.label}  R = {floored(c.radius)}"), style="bold green")
        if c.certified and c.radius is not None
        else Text(_abstained(c), style="bold yellow")
    )
    parts: list[Text | Table] = [verdict, Text(printable(meaning(c))), _votes(c), _evidence(c)]
    parts += [Text(printable(f"→ {line}"), style="yellow") for line in advice(c)]
    return Panel(Group(*parts), title=Text(printable(title)), title_align="left", width=100)


def summary_table(certificates: Iterable[tuple[str, Certificate]]) -> Table:
    """One line for each named certificate."""
    table = Table("frame", "answer", "votes", "verdict", "radius", "seconds", box=box.SIMPLE)
    for name, c in certificates:
        votes = f"{c.votes.certification.get(c.label, 0)}/{c.samples_counted or c.n}"
        verdict = Text("certified", style="green") if c.certified else Text("abstained", style="yellow")
        radius = "" if c.radius is None else floored(c.radius)
        table.add_row(
            Text(name),
            Text(printable(c.label if c.certified else f"({c.label})")),
            votes,
            verdict,
            radius,
            _seconds(c),
        )
    return table


def _votes(c: Certificate) -> Table:
    table = Table("class", "selection", "votes", "", box=box.SIMPLE, padding=(0, 1))
    for name, count in sorted(c.votes.certification.items(), key=lambda item: -item[1]):
        chosen = c.votes.selection[name]
        if count or chosen or name == c.label:
            bar = "█" * round(_BAR * count / max(c.samples_counted, 1))
            table.add_row(
                Text(printable(name)),
                str(chosen),
                str(count),
                Text(bar, style="green" if name == c.label else "red"),
            )
    return table


def _evidence(c: Certificate) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("question", f"{c.prompt!r} → {_classes(c)}"),
        ("bound", _bound(c)),
        ("noise", f"sigma {c.sigma:g}, {'seed given' if c.seed_source == 'given' else 'fresh seed'}"),
        ("samples", _samples(c)),
        ("counts as", f"{c.accounting.kind}: {c.accounting.sentence}"),
        ("assumes", f"{c.assumption.mode}: {c.assumption.sentence}"),
        ("audited by", _audited(c)),
        (
            "image",
            f"{c.image or 'pixels'}: "
            f"{_size(c.preparation.camera_size)} camera → {_size(c.preparation.canvas_size)} canvas"
            + (", turned upright by its EXIF orientation" if c.preparation.rotated_by_exif else ""),
        ),
        (
            "model",
            f"bundle {c.bundle_digest[:16]}, {c.engine.backend} {c.engine.version} on {c.engine.device}"
            + ("; " if c.engine.decoder == "decoder" else f" by its {c.engine.decoder}; ")
            + _margin(c),
        ),
        ("answers", "; ".join(f"{text!r} {count}×" for text, count in c.answers.items()) or "none"),
        ("time", f"{_seconds(c)} s with {c.threads} threads, batches of {c.batch_size}"),
    ):
        if value:
            table.add_row(Text(name, style="dim"), Text(printable(value)))
    return table


def _audited(c: Certificate) -> str:
    if c.teacher is not None:
        return f"the oracle {c.teacher.name!r} ({c.teacher.kind})"
    return "counts given by hand" if c.assumption.mode == Audit.name else ""


def _classes(c: Certificate) -> str:
    """The first of them, for there may be a thousand."""
    more = len(c.oracle.classes) - _CLASSES
    named = ", ".join(c.oracle.classes[:_CLASSES]) + (f" and {more} more" if more > 0 else "") or "no class"
    return named if c.oracle.kind == "choices" else f"{named} (by the oracle {c.oracle.name!r})"


def _margin(c: Certificate) -> str:
    if not c.samples_spent:
        return "not asked"
    if c.margin.smallest is None:
        return "no token had a rival"
    return f"smallest lead {c.margin.smallest:.3g} logits"


def _abstained(c: Certificate) -> str:
    if c.part is not None and c.stopped_because == ONE_PART:
        return f"part {c.part.number} of {c.part.of}, counted"
    if c.radius is None or c.target_radius is None:
        return "abstained"
    return f"abstained: R ≥ {c.target_radius:g} is not shown, only R = {floored(c.radius)}"


def _samples(c: Certificate) -> str:
    target = "" if c.target_radius is None else f", target R ≥ {c.target_radius:g}"
    part = "" if c.part is None else f"part {c.part.number} of {c.part.of}: "
    selected = sum(c.votes.selection.values())
    chosen = f"after {selected} for the selection" if c.n_selection else "whose leader is the class"
    return f"{part}{c.samples_counted} of {c.n}, {chosen}; {c.method}{target}: {c.stopped_because}"


def _seconds(c: Certificate) -> str:
    return f"{c.timings_ms.get('total', 0) / 1000:.2f}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"


def _bound(c: Certificate) -> str:
    if not sum(c.votes.certification.values()):
        return f"none: {c.stopped_because}, so the {c.n} certification samples were not drawn"
    if c.part is not None:
        return "none: a part of the samples proves nothing alone"
    if c.p_lower <= 0:
        return f"none: by the method {c.method} these votes prove nothing"
    what = f"of {c.label!r}" if of_the_label(c.assumption.mode) else f"that {c.label!r} is true"
    return (
        f"probability {what} under noise at least {floored(c.p_lower)}; "
        f"wrong with probability at most {c.alpha:g}"
    )
