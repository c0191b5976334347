"""jetson-stats: its service reads a Jetson's rails as root, its client `jtop` hands them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgers_engines.power.rails import total, whole_module
from edgers_engines.power.source import PowerSource, Site
from edgers_engines.sysfs import UnreadableError

_SERVICE_MS = 500.0  # the client's default; a shorter wish would make the service busier for everybody


class Jtop(PowerSource):
    """The whole module's power, as the service last read it.

    Raises:
        UnreadableError: jetson-stats is not installed, its service does not answer, or it names no rails of
            the whole module.
    """

    name = "jtop"
    waits = True

    def __init__(self, site: Site) -> None:
        self.interval_ms = max(_SERVICE_MS, site.interval_ms)
        self._client = _connected(self.interval_ms / 1e3)
        try:
            self._names = whole_module(_rails(self._client))
        except BaseException:
            self.close()
            raise
        self.rail = " + ".join(self._names)

    def read(self) -> float:
        """See `Source.read`."""
        try:
            alive = self._client.ok()  # waits for the service's next reading
        except Exception as error:  # noqa: BLE001  the client hands on whatever its thread met
            raise UnreadableError(_clause(error)) from None
        if not alive:
            raise UnreadableError("its client ended")
        return total(_rails(self._client), self._names)

    def close(self) -> None:
        """See `Source.close`."""
        self._client.close()


def _connected(seconds: float) -> Any:  # noqa: ANN401  jetson-stats publishes no types
    try:
        from jtop import jtop
    except ImportError:
        raise UnreadableError("jetson-stats is not installed") from None
    try:
        client = jtop(interval=seconds)
        client.start()
    except Exception as error:  # noqa: BLE001  JtopException, or what the socket of the service raised
        raise UnreadableError(_clause(error)) from None
    return client


def _rails(client: Any) -> dict[str, float]:  # noqa: ANN401
    """In watts. A rail that is the whole module is not in "rail" but in "tot", with its name.

    Where no rail is, "tot" is a sum over all of them, which counts some twice: it is not used.
    """
    try:
        power: Mapping[str, Any] = client.power
        milliwatts = {name: entry["power"] for name, entry in power["rail"].items()}
        if "name" in power["tot"]:
            milliwatts[power["tot"]["name"]] = power["tot"]["power"]
        return {str(name): float(value) / 1e3 for name, value in milliwatts.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"its answer is of another form than jetson-stats 4's ({error!r})") from None


def _clause(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
