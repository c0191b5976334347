"""`edgers lint-rules`: which rules of an oracle are never reached. No model, no image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json
from edgers_engines.errors import InputError, printable

if TYPE_CHECKING:
    from edgers.oracle.lint import Finding, Findings
    from edgers_engines.oracle_record import Rules

UNREACHABLE = 1


@click.command("lint-rules")
@click.argument("path", type=PATH, metavar="[FILE.json]", required=False)
@bundle_option
@json_option
def command(*, path: Path | None, bundle_path: Path | None, as_json: bool) -> int:
    """Find the rules of an oracle that no answer ever reaches, and those that could be left out.

    Looks at the rules in FILE.json, or at all rules of a bundle. That a rule is reached, or never, is decided
    for all texts; where that takes too long the rule is called undecided. Exit code 0: no rule is
    unreachable. 1: one is.
    """
    from edgers.oracle.lint import lint

    found = [lint(rules) for rules in _given(path, bundle_path)]
    for findings in found:
        if as_json:
            print_json({**asdict(findings), "never_given": findings.never_given})
        else:
            _show(findings)
    return UNREACHABLE if any(findings.unreachable for findings in found) else 0


def _given(path: Path | None, bundle_path: Path | None) -> list[Rules]:
    from edgers.demo import load_bundle
    from edgers.oracle.definition import read_rules

    if path is None:
        return list(load_bundle(bundle_path).manifest.rules)
    if bundle_path is not None:
        raise InputError("give either a file of rules or --bundle, not both")
    return [read_rules(path)]


def _show(findings: Findings) -> None:
    lost, all_rules = len(findings.unreachable), len(findings.rules)
    click.echo(f"{findings.oracle}: {lost} of {all_rules} rules are never reached")
    for finding in findings.rules:
        click.echo(f"  {described(finding)}")
    for label in findings.never_given:
        click.echo(printable(f"  no answer is ever of the class {label!r}"))


def described(finding: Finding) -> str:
    """The rule and what was found about it, on one printable line."""
    match finding.status:
        case "unreachable" if finding.taken_by:
            takers = " and ".join(map(str, finding.taken_by))
            said = f"never reached, all its texts are taken by rule {takers}"
        case "unreachable":
            said = "never reached, its own exceptions take all its texts"
        case "undecided":
            said = "not decided whether it is ever reached"
        case "redundant":
            said = f"reached, as by {finding.example!r}, but later rules give the same class without it"
        case "reachable":
            said = f"reached, as by {finding.example!r}"
    rule = f"rule {finding.number} {finding.pattern!r} → {finding.label}"
    return printable("; ".join((f"{rule}: {said}", *finding.remarks)))
