"""In what two benchmarks differ: what makes them measure different things, and what people compare."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec

from edgers.benchmark.record import Benchmark
from edgers_engines.device_state import throttling_between
from edgers_engines.errors import InputError
from edgers_engines.records import Record

# The fields of the settings that say what is measured. Names of files and the seed do not: digests do, and
# other noise is more of the same work.
MEASURED = (
    "scenario",
    "bundle_digest",
    "image_sha256",
    "prompt",
    "choices",
    "oracle",
    "sigma",
    "alpha",
    "samples",
    "selection",
    "method",
    "target_radius",
    "batch_size",
)
EXPECTABLE = tuple(name for name in MEASURED if name != "scenario")  # a query of another one is another thing


class Difference(Record, frozen=True, kw_only=True):
    """A field that is not the same in both."""

    field: str
    a: str
    b: str


def settings_differences(a: Benchmark, b: Benchmark, expected: Collection[str]) -> tuple[Difference, ...]:
    """The expected differences in what was asked.

    Args:
        a: before.
        b: after.
        expected: fields that may differ, of `EXPECTABLE`: they are what is compared.

    Raises:
        InputError: one of these is no such field, or another one differs, so that a ratio would compare
            different work. Wrong usage (2), so that the exit code 1 says that something got slower.
    """
    if unknown := sorted({*expected} - {*EXPECTABLE}):
        raise InputError(f"no setting {unknown[0]!r} that may differ; choose of {', '.join(EXPECTABLE)}")
    one, two = (msgspec.structs.asdict(benchmark.settings) for benchmark in (a, b))
    found = tuple(_between({name: one[name] for name in MEASURED}, {name: two[name] for name in MEASURED}))
    refused = [each for each in found if each.field not in expected]
    if refused:
        said = "; ".join(f"{each.field}: {each.a} and {each.b}" for each in refused)
        hint = (
            " ".join(f"--despite {each.field}" for each in refused)
            if all(each.field in EXPECTABLE for each in refused)
            else ""
        )
        raise InputError(
            f"these benchmarks do not measure the same: {said}: "
            + (f"if that is what you compare, say {hint}" if hint else "scenarios cannot be compared")
        )
    return found


def circumstances_differences(a: Benchmark, b: Benchmark) -> tuple[Difference, ...]:
    """Machine, versions, power mode: what people compare, so no error."""
    return tuple(_between(_circumstances(a), _circumstances(b)))


def remarks(a: Benchmark, b: Benchmark) -> tuple[str, ...]:
    """What makes a comparison worth less, in sentences."""
    return (*_of_one("A", a), *_of_one("B", b))


def _of_one(name: str, benchmark: Benchmark) -> Iterator[str]:
    if not benchmark.warm_up.steady:
        yield f"{name} was not steady when its warm-up ended: {benchmark.warm_up.said}"
    if seen := throttling_between(benchmark.before, benchmark.after):
        yield f"{name} was throttled: {', '.join(seen)}"


def _circumstances(benchmark: Benchmark) -> dict[str, object]:
    machine = msgspec.structs.asdict(benchmark.machine)
    engine = msgspec.structs.asdict(machine.pop("engine"))
    versions = machine.pop("versions")
    return {
        **machine,
        **{f"engine {name}": value for name, value in engine.items()},
        "edgers": benchmark.edgers_version,
        **versions,
        "power mode": benchmark.after.power_mode,
    }


def _between(one: Mapping[str, object], two: Mapping[str, object]) -> Iterator[Difference]:
    for name in dict.fromkeys((*one, *two)):
        if one.get(name) != two.get(name):
            yield Difference(field=name, a=_shown(one.get(name)), b=_shown(two.get(name)))


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest
