"""Which of a Jetson's power rails are the whole module; the same names in sysfs, tegrastats and jtop.

A module has one monitor at its input (VDD_IN, POM_5V_IN, Thor's VIN) or several whose sum is the input (AGX
Orin, AGX Xavier). Adding up all that there are would count some twice: VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0,
and VDD_CPU_GPU_CV by VDD_IN. NVIDIA's Jetson Linux Developer Guide, "Software-Based Power Consumption
Modeling".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgers_engines.sysfs import UnreadableError

WHOLE = (
    ("VIN",),  # AGX Thor: the input of module and carrier board
    ("VDD_IN",),  # Orin NX, Orin Nano, Xavier NX, TX2, TX1
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor on a carrier board without a monitor of its own
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)


def whole_module(rails: Iterable[str]) -> tuple[str, ...]:
    """The rails to add up, out of those that there are.

    Raises:
        UnreadableError: none of them, alone or together, is known to be the whole module.
    """
    there = set(rails)
    for names in WHOLE:
        if there.issuperset(names):
            return names
    listed = ", ".join(sorted(there)) or "none"
    raise UnreadableError(f"no rails that are known to be the whole module (there: {listed})")


def total(watts: Mapping[str, float], names: Iterable[str]) -> float:
    """The sum of these rails, in watts.

    An idle rail may read a little below zero, which is its sensor's offset. A sum below zero is no power.

    Raises:
        UnreadableError: a rail is missing, or the sum is negative.
    """
    try:
        found = sum(watts[name] for name in names)
    except KeyError as error:
        raise UnreadableError(f"the rail {error.args[0]} is gone") from None
    if found < 0:
        raise UnreadableError(f"the rails {', '.join(names)} read {found:.3f} W together")
    return found
