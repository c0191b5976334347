"""The paper's figure in kind, n = 100 against n = 1000: python bench/paper_figure.py.

Needs the workstation side. The paper (Seferis et al., arXiv 2509.16088) keeps about 60% of the average radius
and 90% of certified accuracy at a tenth of the samples. Here: the demo model held to the choices, sigma 0.5,
alpha 0.001, new scenes whose right action is known (of the ambiguous ones, one of six, it is partly a matter
of luck). Both certificates of a scene are made apart, from noise of their own, and timed in turns.

A radius counts where the certified class is the right one, else 0. What the exact law predicts
(`edgers.smoothing.scaling`) takes p of a scene from the right class's k votes of 1000, as (k + 1/2) / 1001:
of n = 100 these are other samples, of n = 1000 the same. FRAMES comes from the environment; then nothing is
stored.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from measure import FrameByFrame, in_turns, ratio, store, store_drawing
from numpy.typing import NDArray

from edgers import Certifier, demo
from edgers.certificate import Certificate
from edgers.smoothing.scaling import Listed, certified_share, radius_kept, radius_law
from edgers_export.demo.scenes import Scene, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAMES = int(os.environ.get("FRAMES", "240"))
SIGMA, ALPHA, FEW, MANY = 0.5, 0.001, 100, 1000
RADII = (0.0, 0.25, 0.5)
PAPER = {"radius": 0.6, "accuracy": 0.9}
COLOURS = {FEW: "#c98a1b", MANY: "#2a7f4f"}


@dataclass(frozen=True)
class Row:
    """One scene.

    Attributes:
        ambiguous: whether its right answer is debatable.
        p: the right class's share of the votes of n = 1000.
        radii: of each n: what is certified of the right class, 0 for nothing.
        wrong: of each n: whether another class is certified.
    """

    ambiguous: bool
    p: float
    radii: dict[int, float]
    wrong: dict[int, bool]


@dataclass(frozen=True)
class Measured:
    """Some scenes."""

    rows: list[Row]

    def radii(self, samples: int) -> NDArray[np.float64]:
        """Of every scene."""
        return np.array([row.radii[samples] for row in self.rows])

    def certified(self, samples: int) -> NDArray[np.bool_]:
        """Of every scene and each of `RADII`: certified so far, and right; [scenes, radii]."""
        radii = self.radii(samples)[:, None]
        found: NDArray[np.bool_] = (radii > 0) & (radii >= np.array(RADII))
        return found

    @property
    def law(self) -> Listed:
        """The distribution of p that was measured."""
        return Listed(tuple(row.p for row in self.rows))


def measure() -> tuple[Measured, dict[str, list[float]]]:
    """Both certificates of every scene, and the seconds of each n."""
    rng, bundle = np.random.default_rng(7), demo.load_bundle()
    scenes = [draw(rng) for _ in range(FRAMES)]
    turns = {
        str(n): turn(Certifier(bundle, sigma=SIGMA, samples=n, alpha=ALPHA), scenes) for n in (FEW, MANY)
    }
    seconds = in_turns(turns, len(scenes))
    made = zip(*(each.results for each in turns.values()), strict=True)
    return Measured([row(scene, *pair) for scene, pair in zip(scenes, made, strict=True)]), seconds


def turn(certifier: Certifier, scenes: list[Scene]) -> FrameByFrame[Scene, Certificate]:
    """A contender that certifies a scene a round."""
    return FrameByFrame(
        lambda scene: certifier.certify(scene.image, demo.PROMPT, choices=demo.ACTIONS), scenes
    )


def row(scene: Scene, few: Certificate, many: Certificate) -> Row:
    """What one scene contributes."""
    made = {FEW: few, MANY: many}
    return Row(
        ambiguous=scene.ambiguity is not None,
        p=(many.votes.certification[scene.action] + 0.5) / (MANY + 1),
        radii={n: (each.radius or 0.0) if each.answer == scene.action else 0.0 for n, each in made.items()},
        wrong={n: each.answer not in {None, scene.action} for n, each in made.items()},
    )


def table(found: Measured) -> str:
    """Radius and certified accuracy at both n, and what the smaller keeps; measured (by the exact law)."""
    law, scale = found.law, SIGMA * found.law.mean_quantile()
    lines = [
        f"| n | average radius | {' | '.join(f'certified accuracy at R = {r:g}' for r in RADII)} "
        "| certified of another class |",
        f"|---:|---:|{'---:|' * len(RADII)}---:|",
    ]
    for n in (FEW, MANY):
        shares = zip(found.certified(n).mean(axis=0), by_law(law, n), strict=True)
        lines.append(
            f"| {n} | {found.radii(n).mean():.3f} ({scale * radius_kept(law, n, ALPHA):.3f}) | "
            + " | ".join(f"{share:.3f} ({other:.3f})" for share, other in shares)
            + f" | {sum(row.wrong[n] for row in found.rows)} |"
        )
    return "\n".join([*lines, "", *kept(found)])


def by_law(law: Listed, samples: int) -> list[float]:
    """Certified accuracy at each of `RADII`."""
    return certified_share(law, [radius / SIGMA for radius in RADII], samples, ALPHA)


def kept(found: Measured) -> list[str]:
    """What n = 100 keeps of n = 1000, with intervals over scenes, beside the law and the paper."""
    law = found.law
    share = radius_kept(law, FEW, ALPHA) / radius_kept(law, MANY, ALPHA)
    radius = interval(found.radii(FEW), found.radii(MANY))
    lines = [f"- radius kept: {radius}; exact law {share:.3f}; paper about {PAPER['radius']}"]
    columns = zip(
        found.certified(FEW).T, found.certified(MANY).T, by_law(law, FEW), by_law(law, MANY), strict=True
    )
    for at, (few, many, few_by_law, many_by_law) in zip(RADII, columns, strict=True):
        lines.append(
            f"- certified accuracy kept at R = {at:g}: {interval(few, many)}; "
            f"exact law {few_by_law / many_by_law:.3f}" + f"; paper about {PAPER['accuracy']}" * (at == 0)
        )
    return lines


def times(seconds: dict[str, list[float]]) -> str:
    """Of both n, and their ratio."""
    lines = []
    for n, spent in seconds.items():
        p10, p90 = np.quantile(spent, [0.1, 0.9]) * 1000
        lines.append(f"- n = {n}: {1000 * statistics.median(spent):.0f} ms ({p10:.0f} to {p90:.0f})")
    middle, low, high = ratio(seconds[str(MANY)], seconds[str(FEW)])
    return "\n".join(
        [*lines, f"- ratio: {middle:.2f} ({low:.2f} to {high:.2f}); paper 38 s / 2.8 s = {38 / 2.8:.1f}"]
    )


def interval(few: NDArray[np.generic], many: NDArray[np.generic]) -> str:
    """The ratio of two means over the same scenes, with its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(few), size=(10_000, len(few)))
    each = few[drawn].mean(axis=1) / np.maximum(many[drawn].mean(axis=1), 1e-9)
    low, high = np.quantile(each, [0.025, 0.975])
    return f"{few.mean() / max(many.mean(), 1e-9):.3f} ({low:.3f} to {high:.3f})"


def figure(found: Measured) -> Figure:
    """Certified accuracy against the radius, and the radius kept against n."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    _draw_accuracy(left, found)
    _draw_kept(right, found)
    drawn.suptitle(f"demo model, {len(found.rows)} scenes, σ = {SIGMA:g}, α = {ALPHA:g}", fontsize=11)
    return drawn


def _draw_accuracy(axes: Axes, found: Measured) -> None:
    radii = np.linspace(0, 1.3, 261)
    for n in (FEW, MANY):
        reached = found.radii(n)
        shares = [((reached > 0) & (reached >= radius)).mean() for radius in radii]
        axes.plot(radii, shares, color=COLOURS[n], label=f"n = {n}")
        law = certified_share(found.law, list(radii / SIGMA), n, ALPHA)
        axes.plot(radii, law, color=COLOURS[n], linestyle=":", label=f"n = {n}, exact law")
    axes.set_xlabel("L2 radius")
    axes.set_ylabel("certified accuracy")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_kept(axes: Axes, found: Measured) -> None:
    law, samples = found.law, np.unique(np.geomspace(20, 10_000, 60).astype(int))
    axes.plot(samples, [radius_kept(law, int(n), ALPHA) for n in samples], color="#8a8f98", label="exact law")
    axes.plot(
        samples,
        [max(radius_law(ALPHA, int(n)), 0) for n in samples],
        color="#8a8f98",
        linestyle=":",
        label="the paper's law, 1 - 1.64 z/√n",
    )
    for n in (FEW, MANY):
        share = found.radii(n).mean() / (SIGMA * law.mean_quantile())
        axes.plot([n], [share], "o", color=COLOURS[n], label=f"measured, n = {n}")
    axes.set_xscale("log")
    axes.set_xlabel("samples")
    axes.set_ylabel("share of the infinite-sample average radius")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Measure, draw and store."""
    found, seconds = measure()
    clear = Measured([row for row in found.rows if not row.ambiguous])
    tables = [
        f"Demo model, choices, sigma {SIGMA}, alpha {ALPHA}; in parentheses what the exact law predicts.",
        "",
        f"## All {len(found.rows)} scenes",
        "",
        table(found),
        "",
        f"## The {len(clear.rows)} of them that are not ambiguous",
        "",
        table(clear),
        "",
        "## Time: median (p10 to p90)",
        "",
        times(seconds),
    ]
    results = {"rows": [asdict(each) for each in found.rows], "seconds": seconds}
    store("paper_figure", results, "\n".join(tables))
    store_drawing("paper_figure", figure(found))


if __name__ == "__main__":
    main()
