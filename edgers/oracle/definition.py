"""An oracle that is defined in a file of its own, beside any bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

from msgspec import Meta

from edgers_engines.errors import InputError
from edgers_engines.fields import Name, Sha256
from edgers_engines.files import read_regular
from edgers_engines.oracle_record import Rules
from edgers_engines.prompt import MAX_PROMPT_CHARACTERS
from edgers_engines.records import Record, parse

SUFFIX = ".json"  # tells such a file from the name of a bundle's oracle
MAX_BYTES = 1 << 20
SAME, DIFFERENT = "same", "different"
BLANK = "{text}"  # where a judge's instructions take the answer
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Endpoint(Record, frozen=True, kw_only=True, tag_field="kind", tag="endpoint"):
    """A language model behind an HTTP server that speaks OpenAI's chat completions.

    `timeout_s` is for one answer with all attempts and waits between them. `key_env` names the environment
    variable that holds the server's key; the key itself stands in no file, digest or message.
    """

    base_url: Annotated[str, Meta(pattern=r"^[!-~]+\Z", max_length=2000)]
    model: Annotated[str, Meta(pattern=r"^[!-~]([ -~]*[!-~])?\Z", max_length=500)]
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 20.0
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    parallel: Annotated[int, Meta(ge=1, le=64)] = 4
    key_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=200)] | None = None

    def __post_init__(self) -> None:
        """Refuse an address that is none, or that would show the key.

        Raises:
            ValueError: says what is wrong with it; without the address, which may hold a password.
        """
        url = urlsplit(self.base_url)
        url.port  # noqa: B018  raises where it is no number
        if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
            raise ValueError("base_url must be http://HOST[:PORT]/PATH or https://..., without a password")
        if "?" in self.base_url or "#" in self.base_url:
            raise ValueError("base_url ends with its path, as in http://127.0.0.1:8000/v1")
        if self.key_env and url.scheme == "http" and url.hostname not in _THIS_MACHINE:
            raise ValueError("a key is sent by https only, except to this machine: change base_url")


class LocalBundle(Record, frozen=True, kw_only=True, tag_field="kind", tag="bundle"):
    """A vision-language bundle that is asked without an image; `path` is relative to the definition."""

    path: Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\0]+\Z")]
    digest: Sha256 | None = None


class LocalCheckpoint(Record, frozen=True, kw_only=True, tag_field="kind", tag="checkpoint"):
    """A local Hugging Face language model, for workstations; `path` is relative to the definition."""

    path: Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\0]+\Z")]


class Judge(Record, frozen=True, kw_only=True, tag_field="kind", tag="judge"):
    """An oracle that is a language model: `instructions` hold {text} once, where the answer is put."""

    name: Name
    classes: Annotated[tuple[str, ...], Meta(min_length=2, max_length=1000)]
    instructions: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
    asks: Endpoint | LocalBundle | LocalCheckpoint

    def __post_init__(self) -> None:
        """Refuse instructions that do not say where the answer goes.

        Raises:
            ValueError: says how often they do.
        """
        if (blanks := self.instructions.count(BLANK)) != 1:
            raise ValueError(f"the instructions hold {BLANK} {blanks} times; once is where the answer goes")


class JudgedClusters(Record, frozen=True, kw_only=True, tag_field="kind", tag="clusters"):
    """Clusters whose test is a judge: it reads two answers, numbered, and says whether they mean the same."""

    name: Name
    judge: Judge

    def __post_init__(self) -> None:
        """Refuse a judge of anything else.

        Raises:
            ValueError: its classes are not "same" and "different".
        """
        if set(self.judge.classes) != {SAME, DIFFERENT}:
            raise ValueError(f"the judge of clusters has the classes {SAME!r} and {DIFFERENT!r}, no others")


Definition = Rules | Judge | JudgedClusters


def read_definition(path: Path) -> Definition:
    """The oracle that a JSON file defines.

    Raises:
        InputError: it cannot be read, or defines none.
    """
    try:
        return parse(read_regular(path, MAX_BYTES), cast("type[Definition]", Definition))
    except OSError as error:
        raise InputError(f"cannot read the oracle {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} defines no oracle: {error}") from None


def read_rules(path: Path) -> Rules:
    """The rules that a JSON file defines.

    Raises:
        InputError: it cannot be read, or defines none.
    """
    definition = read_definition(path)
    if not isinstance(definition, Rules):
        raise InputError(f"{path} defines an oracle of another kind than rules")
    return definition
