"""The processor's own energy counters (Intel and AMD) in the kernel's powercap: RAPL.

The kernel's documentation, power/powercap: `energy_uj` counts microjoules up to `max_energy_range_uj`, then
begins again. Since Linux 5.10 only root reads them (CVE-2020-8694).
"""

from __future__ import annotations

from pathlib import Path

from edgers_engines.power.source import EnergyCounter, Site
from edgers_engines.sysfs import UnreadableError, listing, read_integer, read_text

_FOLDER = "sys/class/powercap"
# The smallest counters end at 65 kJ; halfway in one interval would take 3 kW.
_INTERVAL_MS = 10_000.0


class Rapl(EnergyCounter):
    """All processor packages, and the memory that they say they feed.

    Raises:
        UnreadableError: the machine has no such counters, they are for root only, or the model runs on a GPU.
    """

    name = "RAPL"
    interval_ms = _INTERVAL_MS

    def __init__(self, site: Site) -> None:
        if site.device != "cpu":
            raise UnreadableError(f"it counts the processor only, and the model runs on {site.device}")
        self._domains = [_Domain(zone) for zone in _zones(site.root / _FOLDER)]
        if not self._domains:
            raise UnreadableError("there is none")
        self.rail = " + ".join(domain.name for domain in self._domains)

    def read(self) -> float:
        """See `Source.read`."""
        return sum(domain.microjoules() for domain in self._domains) / 1e6


class _Domain:
    """One counter, without its wrapping around."""

    def __init__(self, zone: Path) -> None:
        self.name = _name(zone)
        self._file = zone / "energy_uj"
        self._range = read_integer(zone / "max_energy_range_uj")
        if self._range <= 0:
            raise UnreadableError(f"{zone / 'max_energy_range_uj'} holds {self._range}")
        self._last, self._counted, self._lost = self._first(), 0, ""

    def _first(self) -> int:
        try:
            return read_integer(self._file)
        except UnreadableError as error:
            if isinstance(error.__cause__, PermissionError):
                advice = f"run as root, or let an administrator run chmod a+r {self._file}"
                raise UnreadableError(f"permission denied: {advice}") from None
            raise

    def microjoules(self) -> int:
        """Since it was opened."""
        now = read_integer(self._file)
        step = now - self._last if now >= self._last else now - self._last + self._range
        if not 0 <= step <= self._range // 2:
            self._lost = f"{self.name} went from {self._last} to {now} µJ, which is no wrapping around"
        if self._lost:  # for good: what was used in between was counted by nobody
            raise UnreadableError(self._lost)
        self._last, self._counted = now, self._counted + step
        return self._counted


def _zones(folder: Path) -> list[Path]:
    """Packages, and each package's memory. Cores and graphics are parts of a package; psys overlaps it."""
    zones = listing(folder, "intel-rapl:*")
    names = {zone: _name(zone) for zone in zones}
    packages = {zone.name for zone, name in names.items() if name.startswith("package")}
    memory = [zone for zone in zones if names[zone] == "dram" and zone.name.rpartition(":")[0] in packages]
    return [zone for zone in zones if zone.name in packages] + memory


def _name(zone: Path) -> str:
    try:
        return read_text(zone / "name")
    except UnreadableError:
        return ""
