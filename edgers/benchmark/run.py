"""One run of `edgers bench`: what is asked for, made into a scenario, measured and written down."""

from __future__ import annotations

from dataclasses import dataclass

from edgers.arguments import real
from edgers.benchmark import record
from edgers.benchmark.machine import machine
from edgers.benchmark.measure import AT_MOST, Drive, in_turn, measure
from edgers.benchmark.memory_use import MemoryUse
from edgers.benchmark.record import Benchmark, SettingsRecord
from edgers.benchmark.scenario import SEED, Asking, Certificates, Samples, Scenario
from edgers.certify import DEFAULT_ALPHA, DEFAULT_SAMPLES, Certifier
from edgers.poll import Progress
from edgers.rule import Method
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import InputError, printable
from edgers_engines.image import CameraImage
from edgers_engines.version import __version__

LONGEST = 7 * 24 * 3600.0  # seconds
_CERTIFIES = ("selection", "alpha", "method", "target_radius")
_UNUSED: dict[record.Scenario, tuple[str, ...]] = {
    "certify": (),
    "offline": _CERTIFIES,
    "stream": ("samples", *_CERTIFIES),
    "single": ("samples", "batch_size", *_CERTIFIES),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and for how long.

    Args:
        scenario: one of `record.Scenario`.
        asking: the question.
        sigma: of the noise.
        samples: of a certificate (certify) or of a pool (offline); the other scenarios have their own.
        selection: as in `Certifier`, like alpha, method and target_radius: for certify alone.
        alpha: see there.
        method: see there.
        target_radius: see there.
        batch_size: samples that are answered at once; 1 in the scenario single.
        duration: seconds that are measured at least.
        warm_up: seconds after which warming up ends, steady or not.

    Raises:
        InputError: a number out of range, or one that the scenario has no use for.
    """

    scenario: record.Scenario
    asking: Asking
    sigma: float
    duration: float
    warm_up: float
    samples: int | None = None
    selection: int | None = None
    alpha: float | None = None
    method: Method | None = None
    target_radius: float | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in (("duration", 0.001), ("warm_up", 0.0)):
            value = real(name, getattr(self, name))
            if not least <= value <= LONGEST:
                raise InputError(
                    f"{name.replace('_', '')} is {value:g} s; it must lie between {least:g} and {LONGEST:g}"
                )
        if given := [name for name in _UNUSED[self.scenario] if getattr(self, name) is not None]:
            option = given[0].replace("_", "-")
            raise InputError(f"--{option} is not used in the scenario {self.scenario}: leave it out")


def run(
    settings: Settings,
    bundle: Bundle,
    backend: Backend,
    *,
    progress: Progress = lambda _samples: None,
    drive: Drive | None = None,
) -> tuple[Benchmark, str | None]:
    """Load, warm up, measure.

    Args:
        settings: what and for how long.
        bundle: what answers.
        backend: where.
        progress: called with the number of samples done since the last call.
        drive: what asks; one asking after the other for the settings' duration unless given.

    Returns:
        The benchmark, and why it ended early: `INTERRUPTED`, an error's text, or None if it did not.

    Raises:
        InputError, ImageError: the question or the image cannot be used.
        BackendError: a graph cannot be loaded, or not run before anything was measured.
        MemoryError: there is none for such batches; likewise.
        KeyboardInterrupt: Ctrl-C, before anything was measured.
    """
    camera, memory = CameraImage.of(settings.asking.image), MemoryUse(backend.device)

    def done(samples: int) -> None:
        memory.look()
        progress(samples)

    certifier = _certifier(settings, bundle, backend)
    scenario = _scenario(settings, certifier, done)
    measured = measure(scenario, drive or in_turn(settings.duration), settings.warm_up)
    return (
        Benchmark(
            edgers_version=__version__,
            started_at=measured.started_at,
            settings=_settings_record(settings, certifier, scenario, camera),
            machine=machine(backend, scenario.engine),
            warm_up=measured.warm_up,
            queries=measured.queries,
            memory=memory.record(),
            energy=measured.energy,
            before=measured.before,
            after=measured.after,
        ),
        measured.ended_early,
    )


def _certifier(settings: Settings, bundle: Bundle, backend: Backend) -> Certifier:
    """It checks the numbers and loads the model, also where only the model is asked."""
    sequential = settings.target_radius is not None
    return Certifier(
        bundle,
        sigma=settings.sigma,
        samples=DEFAULT_SAMPLES if settings.samples is None else settings.samples,
        alpha=DEFAULT_ALPHA if settings.alpha is None else settings.alpha,
        selection=settings.selection,
        method=settings.method or ("sequential" if sequential else "fixed"),
        target_radius=settings.target_radius,
        batch_size=settings.batch_size,
        backend=backend,
    )


def _scenario(settings: Settings, certifier: Certifier, progress: Progress) -> Scenario:
    if settings.scenario == "certify":
        return Certificates(certifier, settings.asking, progress)
    pool, batch = certifier.rule.samples, certifier.batch_size
    samples, rows = {"single": (1, 1), "stream": (batch, batch), "offline": (pool, min(pool, batch))}[
        settings.scenario
    ]
    batches = -(-samples // max(rows, 1))  # less than one row is refused where the question is made
    if batches > AT_MOST:
        raise InputError(
            f"a pool of {samples} samples is {batches} batches of {rows}, each a query; a "
            f"file holds {AT_MOST}: give at most {AT_MOST * rows} with --samples, or a larger --batch-size"
        )
    return Samples(
        certifier.model,
        settings.asking,
        sigma=certifier.rule.sigma,
        rows=rows,
        samples=samples,
        progress=progress,
    )


def _settings_record(
    settings: Settings, certifier: Certifier, scenario: Scenario, camera: CameraImage
) -> SettingsRecord:
    rule, asking = certifier.rule, settings.asking
    return SettingsRecord(
        scenario=settings.scenario,
        bundle=certifier.bundle.manifest.name,
        bundle_digest=certifier.bundle.digest,
        image=printable(asking.image.name),
        image_sha256=camera.sha256,
        prompt=asking.prompt,
        choices=asking.choices,
        oracle=asking.oracle,
        sigma=rule.sigma,
        alpha=rule.alpha,
        samples=rule.samples if settings.scenario == "certify" else scenario.samples,
        selection=certifier.selection,
        method=rule.method,
        target_radius=rule.target_radius,
        batch_size=scenario.batch_size,
        seed=f"{SEED:032x}",
    )
