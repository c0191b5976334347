"""This tree beside an older revision: python bench/revisions.py REVISION [FOLDER].

Each revision with its own demo bundle, its own defaults and, in FOLDER, its own export of the miniature
(`miniature.py`), in the same environment. Certificates with a fixed n = 100, and decisions whether R >= 0.25,
about the first demo frame at sigma 0.5 with the same seeds. Every round is a process of each revision, in
turns; it warms up with every certificate once, then times it for every seed. Needs the repository's history.

SAMPLES (a fixed n) and ROUNDS come from the environment; then nothing is stored.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import in_turns, ratio, store
from miniature import PROMPT, folder

from edgers import Bundle, Certifier, demo

SAMPLES, ROUNDS = int(os.environ.get("SAMPLES", "100")), int(os.environ.get("ROUNDS", "9"))
SEEDS = [f"{number:032x}" for number in range(5)]
SIGMA, TARGET, CAP = 0.5, 0.25, 400
HERE = Path(__file__).parent.parent
Certify = Callable[[str], object]  # of a seed
Seconds = dict[str, list[float]]  # of every certificate


def certificates(root: Path) -> dict[str, Certify]:
    """What is timed, with whatever revision is imported here."""
    made: dict[str, Certify] = {}
    models: Mapping[str, tuple[Bundle, str, dict[str, dict[str, Any]]]] = {
        "demo": (
            demo.load_bundle(),
            demo.PROMPT,
            {"choices": {"choices": demo.ACTIONS}, "free text": {"oracle": "action"}},
        ),
        "miniature": (Bundle.load(root / "bundle"), PROMPT, {"choices": {"choices": ("left", "right")}}),
    }
    for model, (bundle, prompt, ways) in models.items():
        fixed = Certifier(bundle, sigma=SIGMA, samples=SAMPLES)
        early = Certifier(bundle, sigma=SIGMA, samples=CAP, method="sequential", target_radius=TARGET)
        for way, how in ways.items():
            made[f"{model}, {way}, n = {SAMPLES}"] = _asking(fixed, prompt, how)
            made[f"{model}, {way}, R >= {TARGET}"] = _asking(early, prompt, how)
    return made


def _asking(certifier: Certifier, prompt: str, how: dict[str, Any]) -> Certify:
    return lambda seed: certifier.certify(demo.frames()[0], prompt, seed=seed, **how)


def times(root: Path) -> dict[str, float]:
    """Median seconds of each certificate over the seeds."""
    seconds: Seconds = {}
    for name, certify in certificates(root).items():
        certify(SEEDS[0])
        for seed in SEEDS:
            start = time.perf_counter()
            certify(seed)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


class Tree:
    """One revision's files, and its miniature below `root`.

    Args:
        files: its working tree.
        root: where the miniature is made, unless it is there.
    """

    def __init__(self, files: Path, root: Path) -> None:
        self._root = root
        rooms = (files, files / "engines", files / "export", files / "bench")
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, rooms))}
        self._run(str(files / "bench" / "miniature.py"), str(root))
        self.seconds: Seconds = {}

    def __call__(self) -> None:
        """One process."""
        for name, spent in json.loads(self._run(__file__, "--time", str(self._root))).items():
            self.seconds.setdefault(name, []).append(spent)

    def _run(self, *command: str) -> str:
        return subprocess.run(
            [sys.executable, *command],
            env=self._environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()[-1]


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A working tree of it, for as long as it is needed."""
    git = ("git", "-C", str(HERE), "worktree")
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary) / "files"
        subprocess.run([*git, "add", "--quiet", "--detach", str(files), revision], check=True)
        try:
            yield files
        finally:
            subprocess.run([*git, "remove", "--force", str(files)], check=True)


def table(before: Seconds, after: Seconds) -> str:
    """Milliseconds of both, and their ratio within a round."""
    lines = ["| certificate | before, ms | now, ms | times as fast (95% interval) |", "|---|---:|---:|---|"]
    for name in after:
        old, new = (1000 * statistics.median(seconds[name]) for seconds in (before, after))
        middle, low, high = ratio(before[name], after[name])
        lines.append(f"| {name} | {old:.0f} | {new:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def main(revision: str, root: Path) -> None:
    """Measure both in turns; the first round warms up."""
    with checked_out(revision) as files:
        old, new = Tree(files, root / "before"), Tree(HERE, root)
        in_turns({"before": old, "now": new}, ROUNDS)
    before, after = ({name: spent[1:] for name, spent in tree.seconds.items()} for tree in (old, new))
    facts = f"Before: {revision}. Medians of {len(SEEDS)} seeds, over {ROUNDS} rounds."
    store("revisions", {"before": before, "now": after}, f"{facts}\n\n{table(before, after)}")


if __name__ == "__main__":
    if sys.argv[1] == "--time":
        print(json.dumps(times(Path(sys.argv[2]))))
    else:
        with folder(sys.argv[2] if len(sys.argv) > 2 else None) as root:
            main(sys.argv[1], root)
