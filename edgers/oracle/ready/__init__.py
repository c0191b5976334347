"""Definitions that are ready to use or to adapt; `edgers ready` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from edgers_engines.errors import InputError


@dataclass(frozen=True)
class Ready:
    """One of them: what it is for, and the files of a package that it is made of."""

    summary: str
    package: str
    files: tuple[str, ...]

    def content(self) -> bytes:
        """The files, one after another."""
        folder = resources.files(self.package)
        return b"".join(folder.joinpath(name).read_bytes() for name in self.files)


READY = {
    "refusals": Ready(
        "rules: does an answer refuse, as in 'I cannot help with that'?",
        "edgers.oracle.ready",
        ("refusals.json",),
    ),
    "harm-judge": Ready(
        "a judge: harmful or harmless? Put your own server into `asks`.",
        "edgers.oracle.ready",
        ("harm-judge.json",),
    ),
    "harm-answers": Ready(
        "labelled answers to distil from: harmful or harmless, of eight kinds, outright and not.",
        "edgers_export.harm",
        ("straight.jsonl", "indirect.jsonl", "mirrored.jsonl", "implied.jsonl"),
    ),
}


def ready(name: str) -> Ready:
    """The one of that name.

    Raises:
        InputError: there is none.
    """
    if name not in READY:
        raise InputError(f"nothing ready is called {name!r}; there are: {', '.join(READY)}")
    return READY[name]
