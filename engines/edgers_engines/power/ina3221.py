"""A Jetson's power monitors in sysfs: the INA3221 on the module, and Thor's INA238 on the carrier board.

Two layouts: hwmon (JetPack 5 and later, and the kernel's own driver) with volts and amperes by channel, and
iio (JetPack 4) with watts. The files are named in the kernel's documentation, hwmon/ina3221, and in NVIDIA's
Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgers_engines.power.rails import total, whole_module
from edgers_engines.power.source import PowerSource, Site
from edgers_engines.sysfs import UnreadableError, listing, read_integer, read_text

_DRIVERS = "sys/bus/i2c/drivers"
_CHANNELS = 3  # of an INA3221; labels beyond them name sums of shunt voltages

Watts = Callable[[], float]


class Ina3221(PowerSource):
    """The whole module's power.

    Raises:
        UnreadableError: the machine has no such monitor, or none of the whole module.
    """

    def __init__(self, site: Site) -> None:
        rails = _rails(site.root / _DRIVERS)
        if not rails:
            raise UnreadableError("there is none")
        self._names = whole_module(rails)
        self._rails = {name: rails[name][1] for name in self._names}
        self.name = rails[self._names[0]][0]
        self.rail = " + ".join(self._names)
        self.interval_ms = site.interval_ms
        self.read()

    def read(self) -> float:
        """See `Source.read`."""
        return total({name: watts() for name, watts in self._rails.items()}, self._names)


def _rails(drivers: Path) -> dict[str, tuple[str, Watts]]:
    """By name: which chip measures the rail, and how to read it in watts."""
    found: dict[str, tuple[str, Watts]] = {}
    for monitor in listing(drivers, "ina3221*/*/hwmon/hwmon*"):
        for channel in range(1, _CHANNELS + 1):
            _add(found, "INA3221", monitor / f"in{channel}_label", partial(_product, monitor, channel))
    for monitor in [path for shape in ("iio:device*", "iio_device*") for path in _iio(drivers, shape)]:
        for channel in range(_CHANNELS):
            power = monitor / f"in_power{channel}_input"
            _add(found, "INA3221", monitor / f"rail_name_{channel}", partial(_milli, power))
    for monitor in listing(drivers, "ina238/*/hwmon/hwmon*"):
        for label in ("in1_label", "label"):
            _add(found, "INA238", monitor / label, partial(_product, monitor, 1))
    return found


def _iio(drivers: Path, shape: str) -> list[Path]:
    return listing(drivers, f"ina3221*/*/{shape}")


def _add(found: dict[str, tuple[str, Watts]], chip: str, label: Path, watts: Watts) -> None:
    try:
        found[read_text(label)] = (chip, watts)
    except UnreadableError:  # a channel that is not connected has no label, or no readable one
        return


def _product(monitor: Path, channel: int) -> float:
    """Millivolts times milliamperes."""
    volts = read_integer(monitor / f"in{channel}_input") / 1e3
    return volts * read_integer(monitor / f"curr{channel}_input") / 1e3


def _milli(power: Path) -> float:
    return read_integer(power) / 1e3
