"""The command line: one file per command, imported when that command is called.

Exit codes: 0 certified or done, 10 abstained, 2 wrong usage, 1 any other error, 130 interrupted. An error is
one line on stderr that says what to do; EDGERS_TRACEBACK=1 shows where an internal error comes from. With
--json, stdout holds JSON and nothing else.
"""

from __future__ import annotations

import io
import os
import sys
from difflib import get_close_matches
from importlib import import_module

import click

from edgers_engines.errors import EdgersError, InputError, printable, short
from edgers_engines.version import __version__

ABSTAINED = 10

_COMMANDS = {
    "certify": "Certify the answer to a question about images.",
    "predict": "Answer a question about images by vote, without a radius.",
    "demo": "Certify the frames that come with edgers.",
    "radius": "The certified radius of a vote count.",
    "plan": "How many samples a radius takes, and what n samples keep.",
    "bench": "Latency, throughput, memory and energy on this device.",
    "merge": "Make one certificate of all its parts.",
    "verify": "Check a certificate, offline or by replay.",
    "inspect": "Show what a bundle is.",
    "pack": "Write a bundle into one file.",
    "unpack": "Make a bundle from such a file, checking every byte.",
    "roofline": "How close a bundle's graphs come to what a device can do.",
    "doctor": "Show what this machine has, and what is wrong.",
    "collect": "Write what a bundle answers about noisy images into a file.",
    "ready": "Oracles and labelled answers that come with edgers.",
    "ablate-oracles": "Compare oracles on the same stored answers.",
    "compare-bundles": "Compare two bundles on the same noise: tokens, votes, radii.",
    "lint-rules": "Find rules that no answer ever reaches.",
    "distill": "Train an oracle on labelled answers (workstation).",
    "inject-oracle-errors": "What oracle errors do to the certificates of each mode.",
    "build": "Build TensorRT plans of a bundle, for the GPU that is there.",
    "engines": "List and remove the TensorRT plans on this machine.",
    "export": "Turn a Hugging Face LLaVA checkpoint into a bundle (workstation).",
}


class _Commands(click.Group):
    """Knows every command's name and summary without importing it, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"edgers.cli.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"edgers.cli.{cmd_name} has no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, which does not know what a mistyped name might mean."""
        if args and args[0] not in _COMMANDS and (close := get_close_matches(args[0], _COMMANDS, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def cli() -> None:
    """Certified vision-language models on edge devices.

    Answers many noisy copies of an image, counts how often each class wins, and certifies the L2 distance
    within which the winning class cannot change, or abstains.
    """


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every character
    sys.exit(_run())


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; what was not finished is not there: run it again", 130)
    except Exception as error:
        if os.environ.get("EDGERS_TRACEBACK"):
            raise
        return _fail(*_explain(error))
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    match error:
        case click.UsageError():
            return f"{error.format_message()} (see --help)", 2
        case click.ClickException():
            return error.format_message(), 1
        case InputError():
            return str(error), 2
        case EdgersError() | OSError():
            return str(error), 1
        case MemoryError():
            said = f" ({error})" if str(error) else ""
            return f"out of memory{said}: end other programs, or use a smaller model or narrower weights", 1
    return f"internal error, please report it ({type(error).__name__}: {error})", 1


def _fail(text: str, code: int) -> int:
    click.echo(f"edgers: {short(printable(' '.join(text.split())))}", err=True)
    return code
