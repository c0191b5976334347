"""What a certificate takes for granted, as its record says it: mode, parameters, counts, one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from edgers.smoothing.mode import Mode, parameters
from edgers.smoothing.oracle_error import MODES
from edgers.smoothing.oracle_error import mode as make
from edgers_engines.records import Record

_ALWAYS = "Assumes noise that is independent of the image and between samples, and a fixed labelling"
_RECORDED = ": bundle, prompt, decoding and oracle as recorded here"
_JUDGED = "; asked about a text, the judge says the same whenever, how often and after what it is asked"
_COUNTS = ("errors", "total", "correct", "audited", "counts")


class Assumption(Record, frozen=True, kw_only=True):
    """What the certificate takes for granted; `calibration` holds counts in the modes that need them."""

    mode: str
    parameters: dict[str, float]
    calibration: dict[str, int | tuple[tuple[int, int], ...]] | None
    sentence: str


def assumption(mode: Mode, *, recorded: bool = True, judged: bool = False) -> Assumption:
    """The record of a mode: the same for numbers of any type, a list or a tuple, numpy's or Python's.

    Args:
        mode: what is claimed, and what it assumes.
        recorded: whether the labelling is recorded beside it, as in a certificate.
        judged: whether a language model labels, which need not be a fixed map.
    """
    given = {name: getattr(mode, name) for name in parameters(MODES[mode.name])}
    counts = {name: _whole(given.pop(name)) for name in _COUNTS if name in given}
    rates = {name: float(rate) for name, rate in given.items()}
    return Assumption(
        mode=mode.name,
        parameters=rates,
        calibration=counts or None,
        sentence=f"{make(mode.name, **rates, **counts).sentence} {_ALWAYS}{_RECORDED * recorded}"
        f"{_JUDGED * judged}.",
    )


def mode_of(record: Assumption) -> Mode:
    """The mode of a record.

    Raises:
        ValueError: there is no such mode, or it does not take these parameters.
    """
    try:
        return make(record.mode, **{**record.parameters, **(record.calibration or {})})
    except TypeError:
        raise ValueError(f"mode {record.mode} does not take such numbers") from None


def _whole(counts: int | Sequence[tuple[int, int]]) -> int | tuple[tuple[int, int], ...]:
    if isinstance(counts, Sequence):
        return tuple((int(errors), int(total)) for errors, total in counts)
    return int(counts)
