"""The command line: one file per command, imported when that command is called.

Exit codes: 0 certified or done, 10 abstained, 2 wrong usage, 1 any other error. An error is one line on
stderr that says what to do. With --json, stdout holds JSON and nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from edgers_engines.errors import EdgersError, InputError
from edgers_engines.version import __version__

ABSTAINED = 10

_COMMANDS = {
    "certify": "Certify the answer to a question about images.",
    "demo": "Certify the frames that come with edgers.",
    "radius": "The certified radius of a vote count.",
    "verify": "Check a certificate, offline or by replay.",
    "inspect": "Show what a bundle is.",
    "doctor": "Show what this machine has, and what is wrong.",
    "export": "Turn a Hugging Face LLaVA checkpoint into a bundle (workstation).",
}


class _Commands(click.Group):
    """Knows every command's name and summary without importing it, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"edgers.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"edgers.cli.{cmd_name} has no click command")
        return command

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
    """Run the command line and exit; never shows a traceback for what a user can mend."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (click.UsageError, InputError) as error:
        code = _fail(error, 2)
    except (click.ClickException, EdgersError) as error:
        code = _fail(error, 1)
    except MemoryError:
        code = _fail("out of memory: lower --batch-size", 1)
    except OSError as error:
        code = _fail(error, 1)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted; nothing was saved", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception | str, code: int) -> int:
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    click.echo(f"edgers: {' '.join(text.split())}", err=True)
    return code
