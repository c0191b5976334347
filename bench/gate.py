"""The gate under faults: python bench/gate.py. Prints how each fault ended, over 2,000 decisions.

`tests/edgers/faults.py` says what the faults are and what must never happen; the test suite runs a few of the
same decisions. DECISIONS comes from the environment.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from edgers import Gate, demo
from edgers.gate import Outcome
from tests.edgers.faults import FAULTS, Simulation

DECISIONS = int(os.environ.get("DECISIONS", "2000"))


def main() -> None:
    """Run and print; exit code 1 where something happened that must not."""
    start = time.perf_counter()
    simulation = Simulation(Gate(demo.load_bundle(), sigma=demo.SIGMA, samples=200), seed=1).run(DECISIONS)
    print("| fault | " + " | ".join(outcome.name for outcome in Outcome) + " |")
    print("|---|" + "---:|" * len(Outcome))
    for fault in FAULTS:
        counts = (str(simulation.outcomes[fault, outcome]) for outcome in Outcome)
        print(f"| {fault} | {' | '.join(counts)} |")
    seconds = time.perf_counter() - start
    print(f"\n{DECISIONS} decisions in {seconds:.0f} s; violations: {len(simulation.violations)}")
    for violation in simulation.violations[:20]:
        print(f"  {violation}")
    sys.exit(bool(simulation.violations))


if __name__ == "__main__":
    main()
