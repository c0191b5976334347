"""The pictures and the page of a benchmark: they say its figures, stand alone, and keep names as text."""

import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace
from PIL import Image
from rich.console import Console

from edgers.benchmark.summary import summarise
from edgers.cli.bench import _roofline
from edgers.report.benchmark import benchmark_lines, warnings
from edgers.report.benchmark_page import benchmark_html
from edgers.report.benchmark_plot import plot_benchmark
from edgers.report.inline_svg import inline_svg
from edgers.report.panels import panels
from edgers.report.panels.radius import radius_by_samples
from edgers.roofline import Roof, Roofline, Roofs, Stage
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers_engines.energy import EnergyRecord
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError
from edgers_engines.graph_work import Work
from tests.edgers.simulated_benchmarks import STATE, simulated

HOSTILE = (
    "</svg></title><script>alert('é')</script><img src=x onerror=alert(1)>&amp;\"$x_1$\x1b[2J{{ 7 * 7 }}"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}
KEYS = ["stages", "latency", "time", "radius", "energy", "roofline"]


def a_stage(name, flops, nbytes, seconds):
    work = Work(
        flops={"float32": flops},
        executed_flops=flops,
        weights=nbytes,
        values=0,
        cache=0,
        executed_cache=0,
        other=0,
    )
    return Stage(
        name=name,
        work=work,
        limit_seconds=max(flops / 200e9, nbytes / 20e9),
        bound_by="compute",
        seconds=seconds,
        spread=(seconds, seconds),
    )


ROOFLINE = Roofline(
    bundle="0" * 64,
    prediction=False,
    roofs=Roofs(
        device="a board",
        bandwidth=Roof(per_second=20e9, source="measured"),
        peaks={"float32": Roof(per_second=200e9, source="measured")},
    ),
    rows=32,
    positions=47,
    tokens=12,
    samples=100,
    stages=(
        a_stage("vision", 1_400_000_000, 6_000_000, 0.02),
        a_stage("prefill", 370_000_000, 2_600_000, 0.01),
        a_stage("decode step", 14_000_000, 2_000_000, 0.0009),
    ),
)


@pytest.fixture(scope="module")
def benchmark():
    return simulated()


@pytest.fixture(scope="module")
def page(benchmark):
    return benchmark_html(benchmark, ROOFLINE).decode()


class Reader(HTMLParser):
    """Opens and closes elements, and keeps what a page says."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_element_of_the_page_is_closed_and_no_identifier_is_there_twice(page):
    reader = Reader(page)
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(names) == len({*names})
    assert [attributes["id"] for attributes in reader.all("figure")] == KEYS


def test_what_a_drawing_refers_to_is_in_it(page):
    names = {attributes.get("id") for _, attributes in Reader(page).elements}
    referred = re.findall(r'(?:href="|url\()#([^")]+)', page)
    assert referred
    assert {*referred} <= names


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(page):
    reader = Reader(page)
    assert "://" not in page
    assert "xlink" not in page
    for _, attributes in reader.elements:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert not {"script", "link", "iframe", "object", "base", "img"} & {tag for tag, _ in reader.elements}
    assert "@import" not in page
    [policy] = [each["content"] for each in reader.all("meta") if "http-equiv" in each]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_picture_has_a_name_and_says_the_same_as_a_table(page):
    reader = Reader(page)
    names = {attributes.get("id") for _, attributes in reader.elements}
    drawings = reader.all("svg")
    assert len(drawings) == len(KEYS)
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert drawing["aria-labelledby"] in names
    assert page.count("</table>") == len(KEYS) + 3
    assert page.count('<th scope="col">') > 2 * len(KEYS)


def test_the_page_says_the_figures_the_machine_and_that_nothing_is_certified(page, benchmark):
    words = " ".join(Reader(page).words)
    summary = summarise(benchmark)
    for text in (
        f"{summary.latency.percentiles[50]:.1f} ms",
        f"{summary.joules_per_certificate:.2f} J a certificate",
        "A benchmark certifies nothing",
        benchmark.settings.bundle_digest,
        benchmark.settings.prompt,
        "forward, left, right, stop",
        "NVIDIA Jetson AGX Orin Developer Kit",
        "JetPack",
        "MAXN",
        "cpu-thermal 66 °C",
    ):
        assert text in words
    assert 'class="warnings"' not in page


@pytest.mark.parametrize("dark", ["prefers-color-scheme: dark", "@media print"])
def test_the_page_suits_the_dark_and_paper_with_the_ink_of_its_drawings(page, dark):
    assert dark in page
    assert "currentColor" in page
    drawn = page[page.index("<svg") : page.rindex("</svg>")]
    assert "var(--blue)" in drawn
    assert "#010203" not in drawn
    assert "#000000" not in drawn


def test_what_makes_figures_worth_less_is_said_at_the_top(benchmark):
    assert list(warnings(benchmark)) == []
    worse = replace(
        simulated(count=99),
        warm_up=replace(benchmark.warm_up, steady=False, said="still falling"),
        before=replace(STATE, throttling=("over current",)),
    )
    steady, throttled, few = warnings(worse)
    assert "still falling" in steady
    assert "over current" in throttled
    assert "99 of 100" in few
    page = benchmark_html(worse).decode()
    assert page.index("over current") < page.index("<figure")


def test_hostile_names_are_text_in_the_page_and_in_its_pictures(benchmark):
    hostile = replace(
        benchmark,
        settings=replace(
            benchmark.settings,
            bundle=HOSTILE,
            prompt=HOSTILE,
            image=HOSTILE,
            choices=(HOSTILE,),
            oracle=HOSTILE,
        ),
        machine=replace(benchmark.machine, processor=HOSTILE, model=HOSTILE, versions={HOSTILE: HOSTILE}),
        energy=EnergyRecord(joules=None, reason=HOSTILE),
        warm_up=replace(benchmark.warm_up, steady=False, said=HOSTILE),
        after=replace(STATE, throttling=(HOSTILE,), power_mode=HOSTILE, temperatures_c={HOSTILE: 1.0}),
    )
    page = benchmark_html(hostile, HOSTILE).decode()
    reader = Reader(page)
    assert not {"script", "img"} & {tag for tag, _ in reader.elements}
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in " ".join(reader.words)
    assert sum("alert(1)" in text for text in reader.words) >= 10
    assert len(reader.all("svg")) == len(KEYS)
    assert plot_benchmark(hostile, "png", HOSTILE)[:4] == b"\x89PNG"


@pytest.mark.parametrize("file_type", ["png", "svg", "pdf"])
def test_a_picture_is_of_the_type_that_is_asked_for(benchmark, file_type):
    drawn = plot_benchmark(benchmark, file_type, ROOFLINE)
    if file_type == "png":
        assert Image.open(io.BytesIO(drawn)).size == (1920, 1032)
    elif file_type == "svg":
        assert ElementTree.fromstring(drawn).tag.endswith("svg")  # noqa: S314  ours
    else:
        assert drawn.startswith(b"%PDF")


def test_a_part_of_one_query_is_no_range():
    (row,) = next(panel for panel in panels(simulated(count=1), "none") if panel.key == "time").rows
    assert row[0] == "1"


def texts(panel):
    """What a reader finds in the picture."""
    return " ".join(re.sub(r"<[^>]*>", " ", inline_svg(panel)).split())


def drawn(benchmark, roofline=ROOFLINE):
    return {panel.key: texts(panel) for panel in panels(benchmark, roofline)}


def test_each_picture_shows_its_figures(benchmark):
    found, summary = drawn(benchmark), summarise(benchmark)
    for stage in summary.stages:
        assert f"{stage.share:.1%}" in found["stages"]
    for q in (50, 90, 99):
        assert f"p{q} {summary.latency.percentiles[q]:.1f} ms" in found["latency"]
    assert "warm-up, 2.7 s, not kept" in found["time"]
    assert "n = 100" in found["radius"]
    assert "certified here" in found["radius"]
    assert "INA3221 VDD_IN" in found["energy"]
    for stage in ROOFLINE.stages:
        assert stage.name in found["roofline"]
    assert "200 GFLOP/s, float32" in found["roofline"]


def test_what_is_not_known_is_said_where_it_would_be(benchmark):
    unknown = replace(simulated(count=9), energy=EnergyRecord(joules=None, reason="no meter is there"))
    found = drawn(unknown, "not measured: no time")
    assert "not known: no meter is there" in found["energy"]
    page = benchmark_html(unknown).decode()
    assert page.count("no meter is there") == 2, "in the picture, and among the facts"
    assert "not measured: no time" in found["roofline"]
    assert "p90 needs 10 queries" in found["latency"]
    assert "p99 needs 100 queries" in found["latency"]
    counted = replace(unknown, energy=EnergyRecord(joules=5.0, source="RAPL", rail="package-0"))
    assert "there is no power over time" in drawn(counted)["energy"]


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("scenario", ["single", "stream", "offline", "certify"])
def test_every_scenario_is_drawn_however_few_queries_there_are(scenario, count):
    short = simulated(times=np.full(count, 20.0), settings={"scenario": scenario})
    queries = short.queries if scenario == "certify" else tuple(_plain(query) for query in short.queries)
    page = benchmark_html(replace(short, queries=queries)).decode()
    assert len(Reader(page).all("figure")) == len(KEYS)
    assert ("energy of a certificate" in page) == (scenario == "certify")


def _plain(query):
    return replace(query, certified=None, radius=None, stopped_because=None)


@pytest.mark.parametrize("share", [1.0, 0.99, 0.9])
def test_the_curve_of_radii_goes_through_the_certificates_that_whole_votes_give(benchmark, share):
    settings = replace(benchmark.settings, sigma=0.5)
    for samples in (100, 1000):
        lower = clopper_pearson_lower(round(share * samples), samples, settings.alpha)
        found = radius_by_samples(np.asarray([float(samples)]), share, settings)[0]
        assert found == pytest.approx(certified_radius(lower, 0.5), rel=1e-9)
    assert radius_by_samples(np.asarray([5.0]), share, settings)[0] == 0


def test_the_certificates_are_marked_where_they_are_selection_aside(benchmark):
    radius = next(panel for panel in panels(benchmark, "") if panel.key == "radius")
    marked = [row for row in radius.rows if row[0] == "100, here"]
    certified = [query for query in benchmark.queries if query.certified]
    assert sum(int(row[2].split()[0]) for row in marked) == len(certified)
    assert f"{len(certified)} of {len(benchmark.queries)} queries certified" in radius.caption


def test_a_roofline_that_is_not_to_be_had_leaves_its_reason_in_the_picture(
    benchmark, demo_bundle, monkeypatch
):
    def fails(*_given):
        raise BackendError("no product to be measured by")

    monkeypatch.setattr("edgers.roofline.measure", fails)
    found = _roofline(benchmark, demo_bundle, open_backend("onnxruntime", device=None, threads=1))
    assert found == "not measured: no product to be measured by"
    assert "no product to be measured by" in drawn(benchmark, found)["roofline"]


def roofline_of(benchmark, bundle, monkeypatch):
    """The tokens and the samples that a benchmark's roofline is measured for."""
    given = []

    def measured(_model, sizes, samples):
        given.append((sizes.tokens, samples))
        return ROOFLINE

    monkeypatch.setattr("edgers.roofline.measure", measured)
    _roofline(benchmark, bundle, open_backend("onnxruntime", device=None, threads=1))
    return given.pop()


@pytest.mark.parametrize(("steps", "tokens"), [(0, 1), (5, 2), (20, 5)])
def test_the_roofline_is_of_the_tokens_and_samples_that_were_measured(
    benchmark, demo_bundle, monkeypatch, steps, tokens
):
    """116 samples are a batch of 16 for the class and four batches of up to 32."""
    queries = tuple(replace(query, decode_steps=steps) for query in benchmark.queries)
    measured = replace(benchmark, queries=queries)
    assert roofline_of(measured, demo_bundle, monkeypatch) == (tokens, 116)
    caption = panels(measured, ROOFLINE)[-1].caption
    assert f"{tokens} tokens a batch on average" in caption
    assert "each sample's own are not recorded" in caption


def test_the_roofline_of_certificates_that_end_early_is_of_the_samples_they_took(
    benchmark, demo_bundle, monkeypatch
):
    queries = tuple(
        replace(query, samples=samples, decode_steps=steps)
        for query, samples, steps in zip(benchmark.queries, (10, 20), (1, 2), strict=False)
    )
    settings = replace(benchmark.settings, selection=0, batch_size=8)
    early = replace(benchmark, queries=queries, settings=settings)
    assert summarise(early).tokens == pytest.approx(1 + 3 / 5)
    assert roofline_of(early, demo_bundle, monkeypatch) == (2, 15)


def test_the_roofline_of_batches_counts_each_query_as_one(benchmark, demo_bundle, monkeypatch):
    queries = tuple(replace(_plain(query), samples=32, decode_steps=3) for query in benchmark.queries)
    settings = replace(benchmark.settings, scenario="stream", samples=32)
    batches = replace(benchmark, queries=queries, settings=settings)
    assert roofline_of(batches, demo_bundle, monkeypatch) == (4, 32)


@pytest.mark.parametrize(
    ("scenario", "selection", "said"),
    [
        ("certify", 16, "100 after 16 for the class; 32 at once"),
        ("certify", 0, "100; 32 at once"),
        ("offline", 16, "100; 32 at once"),
    ],
)
def test_samples_for_the_class_are_named_only_where_there_are_any(scenario, selection, said):
    short = simulated(count=2, settings={"scenario": scenario, "selection": selection})
    queries = short.queries if scenario == "certify" else tuple(map(_plain, short.queries))
    page = benchmark_html(replace(short, queries=queries)).decode()
    assert f"<td>{said}</td>" in page


def energy_across(benchmark):
    """What the energy panel has across: its values, and their name."""
    axes = Figure().subplots()
    next(panel for panel in panels(benchmark, "") if panel.key == "energy").draw(axes)
    return [*axes.lines[0].get_xdata()], axes.get_xlabel()


def test_power_is_drawn_at_the_times_of_its_readings_or_by_their_numbers(benchmark):
    energy = replace(benchmark.energy, watts=(5.0, 6.0, 7.0), seconds=(0.0, 0.5, 7.25))
    assert energy_across(replace(benchmark, energy=energy)) == ([0.0, 0.5, 7.25], "seconds")
    older = replace(benchmark, energy=replace(energy, seconds=()))
    assert energy_across(older) == ([1, 2, 3], "number of the reading: its time is not recorded")


def test_samples_that_failed_are_said_in_one_line_where_there_are_any(benchmark):
    queries = (replace(benchmark.queries[0], failed=3), *benchmark.queries[1:])
    said = f"3 of {116 * len(queries):,} samples failed"
    for each, there in ((benchmark, False), (replace(benchmark, queries=queries), True)):
        console = Console(width=200, file=io.StringIO())
        for line in benchmark_lines(each):
            console.print(line)
        assert (said in console.file.getvalue()) == there
        assert any(said in warning for warning in warnings(each)) == there


def worse_than(benchmark):
    """Nine queries that were not steady, on a device that was throttled."""
    return replace(
        simulated(count=9),
        warm_up=replace(benchmark.warm_up, steady=False, said="still falling"),
        before=replace(STATE, throttling=("over current",)),
    )


def test_the_warnings_stand_beneath_the_picture(benchmark):
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, *_given, **_named: figures.append(figure))
        for each in (benchmark, worse_than(benchmark)):
            plot_benchmark(each, "png", ROOFLINE)
    good, bad = (figure.get_supxlabel().replace("\n", " ") for figure in figures)
    assert good == ""
    for said in ("still falling", "over current", "9 of 100"):
        assert said in bad


def test_the_legend_of_the_latencies_lies_within_their_axes_and_above_the_marks(benchmark):
    for each in (benchmark, worse_than(benchmark)):
        figure = Figure(figsize=(5.3, 4.0), layout="constrained")  # a third of the picture's width
        axes = figure.subplots()
        next(panel for panel in panels(each, "") if panel.key == "latency").draw(axes)
        figure.draw_without_rendering()
        legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert inside.x0 < legend.x0
        marks = max(patch.get_window_extent().y1 for patch in axes.patches)
        assert marks < legend.y0


def test_the_size_of_the_dots_is_explained_where_they_are(benchmark):
    assert "the larger a dot, the more queries" in drawn(benchmark)["radius"]
