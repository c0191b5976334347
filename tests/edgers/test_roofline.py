"""The roofline: limits by hand, predictions that say so, and shares of what was measured."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from matplotlib.figure import Figure

from edgers import roofline as module
from edgers.cli import cli
from edgers.report.roofline import draw, duration, plot_rooflines, roofline_sentences, roofline_table
from edgers.roofline import Roof, Roofs, limit, measure, measured_roofs, predict, published_roofs
from edgers_engines.device_profile import device_profile, device_profiles
from edgers_engines.errors import InputError
from edgers_engines.graph_work import Work
from edgers_engines.peaks import Peaks, Rate
from edgers_engines.stages import question_sizes, stage_works


def work(nbytes=100, **flops):
    return Work(
        flops=flops,
        executed_flops=sum(flops.values()),
        weights=nbytes,
        values=0,
        cache=0,
        executed_cache=0,
        other=0,
    )


def roofs(bandwidth=10.0, **peaks):
    made = {name: Roof(per_second=value, source=f"about {name}") for name, value in peaks.items()}
    return Roofs(device="it", bandwidth=Roof(per_second=bandwidth, source="about memory"), peaks=made)


class TestLimit:
    @pytest.mark.parametrize(
        ("flops", "seconds", "bound_by"), [(1000, 10, "memory"), (4000, 20, "compute"), (2000, 10, "compute")]
    )
    def test_it_is_the_longer_of_computing_and_moving(self, flops, seconds, bound_by):
        assert limit(work(100, float32=flops), roofs(10, float32=200)) == (seconds, bound_by)

    def test_each_type_of_number_has_its_own_peak_and_takes_its_turn(self):
        found = limit(work(1, float16=400, int8=800), roofs(10, float16=200, int8=400))
        assert found == (4, "compute")

    def test_bfloat16_has_float16s_peak_unless_it_has_its_own(self):
        assert limit(work(1, bfloat16=400), roofs(10, float16=200)) == (2, "compute")
        assert limit(work(1, bfloat16=400), roofs(10, float16=200, bfloat16=100)) == (4, "compute")

    def test_what_is_not_known_is_named_with_the_reason(self):
        with pytest.raises(InputError, match="peak of products in int8 is not: about int8"):
            limit(work(1, int8=1), roofs(10, int8=None, float16=200))
        with pytest.raises(InputError, match="peak of products in float32 is not: nothing is stated of it"):
            limit(work(1, float32=1), roofs(10, float16=200))
        with pytest.raises(InputError, match="bandwidth is not: about memory"):
            limit(work(1, float32=1), roofs(None, float32=1))


class TestProfiles:
    def test_every_figure_has_a_source_and_every_gap_a_reason(self):
        for profile in device_profiles():
            figures = [profile.bandwidth, *profile.peaks.values()]
            assert set(profile.peaks) == {"float32", "float16", "int8", "float8_e4m3fn"}
            assert all(len(figure.source) > 20 for figure in figures), profile.name

    def test_narrower_numbers_are_multiplied_at_least_as_fast(self):
        for profile in device_profiles():
            known = [f.per_second for k, f in profile.peaks.items() if f.per_second and k != "float8_e4m3fn"]
            assert known == sorted(known), profile.name

    def test_agx_orin_has_the_figures_that_edge_numbers_are_compared_with(self):
        profile = device_profile("orin-agx-64")
        assert profile.bandwidth.per_second == pytest.approx(205e9, rel=0.01)
        assert profile.peaks["float16"].per_second == pytest.approx(42e12, rel=0.02)


class TestPrediction:
    def test_it_is_the_count_under_published_roofs(self, demo_bundle):
        profile = device_profile("orin-nano-8")
        sizes = question_sizes(demo_bundle, 5, tokens=9)
        found = predict(demo_bundle, profile, sizes, 100)
        assert found.prediction
        assert found.assumed_share == 1
        for stage, (name, counted) in zip(found.stages, stage_works(demo_bundle, sizes).items(), strict=True):
            assert (stage.name, stage.work) == (name, counted)
            assert (
                stage.seconds
                == stage.limit_seconds
                == max(counted.total_flops / 1.28e12, counted.nbytes / 68e9)
            )
            assert stage.spread is None
            assert stage.share == 1

    def test_a_share_makes_every_time_longer_and_no_limit(self, demo_bundle):
        profile, sizes = device_profile("orin-nano-8"), question_sizes(demo_bundle, 5)
        whole, half = (predict(demo_bundle, profile, sizes, 100, share) for share in (1, 0.5))
        assert half.certificate_seconds == pytest.approx(2 * whole.certificate_seconds)
        assert half.certificate_limit_seconds == whole.certificate_limit_seconds == whole.certificate_seconds
        assert [stage.share for stage in half.stages] == [0.5] * 3

    def test_a_certificate_is_batches_of_vision_prefill_and_all_steps_but_the_first_token(self, demo_bundle):
        sizes = question_sizes(demo_bundle, 5, tokens=9)
        found = predict(demo_bundle, device_profile("orin-nano-8"), sizes, 100)
        vision, prefill, step = (stage.seconds for stage in found.stages)
        assert found.certificate_seconds == pytest.approx(20 * (vision + prefill + 8 * step))

    @pytest.mark.parametrize("share", [0, -1, 1.01, math.nan])
    def test_a_share_that_is_none_is_refused(self, demo_bundle, share):
        sizes = question_sizes(demo_bundle, 5)
        with pytest.raises(InputError, match="above 0 and at most 1"):
            predict(demo_bundle, device_profile("orin-nano-8"), sizes, 100, share)

    def test_it_says_whether_the_rows_fit(self, demo_bundle):
        profile = device_profile("orin-nano-8")
        for rows, fits in ((25, True), (1 << 20, False)):
            assert predict(demo_bundle, profile, question_sizes(demo_bundle, rows), 1).fits is fits

    def test_llava_7b_on_agx_orin_decodes_no_faster_than_its_weights_are_read(self):
        """Counted by hand, 13.5 GB in fp16: 15 tokens a second at most; 11.5 were published of a 7B model."""
        agx = published_roofs(device_profile("orin-agx-64"))
        least, bound_by = limit(work(13_540_000_000, float16=13_540_000_000), agx)
        assert bound_by == "memory"
        assert 1 / least == pytest.approx(15.1, abs=0.1)
        assert limit(work(13_540_000_000, float16=7_890_000_000_000), agx)[1] == "compute"


@pytest.fixture
def known(monkeypatch):
    """A machine whose peaks and times are known."""
    rates = {
        name: Rate(best=best, median=best / 2, least=best / 4, tries=7, by="hand")
        for name, best in (("float32", 200e9), ("memory", 20e9))
    }
    found = Peaks(products={"float32": rates["float32"]}, bandwidth=rates["memory"])
    asked = []
    monkeypatch.setattr(module, "measure_peaks", lambda _, kinds: asked.append(kinds) or found)
    times = {"vision": [0.03, 0.01, 0.02], "prefill": [0.01] * 3, "decode step": [0.001] * 3}
    monkeypatch.setattr(module, "time_stages", lambda *_: times)
    return asked


class TestMeasurement:
    def test_a_share_is_the_limit_by_the_best_peak_over_the_median_time(self, demo_model, known):
        sizes = question_sizes(demo_model.bundle, 5)
        found = measure(demo_model, sizes, 100)
        vision, *_ = found.stages
        least = vision.work.total_flops / 200e9
        assert (vision.limit_seconds, vision.bound_by) == (least, "compute")
        assert (vision.seconds, vision.spread) == (0.02, (0.01, 0.03))
        assert vision.share == least / 0.02
        assert vision.flops_per_second == vision.work.total_flops / 0.02
        assert known == [["float32"]], "and no peak is measured that no product has"
        assert (found.prediction, found.assumed_share, found.fits) == (False, None, None)

    def test_under_given_roofs_no_peak_is_measured(self, demo_model, known):
        profile = device_profile("rtx-4090-24")
        found = measure(demo_model, question_sizes(demo_model.bundle, 5), 100, profile)
        assert found.roofs == published_roofs(profile)
        assert not found.prediction
        assert known == []

    def test_what_is_counted_is_the_decoder_that_the_backend_runs(self, demo_model, known, monkeypatch):
        counted = []
        monkeypatch.setattr(
            module, "stage_works", lambda *given: counted.append(given) or stage_works(*given)
        )
        measure(demo_model, question_sizes(demo_model.bundle, 5), 100)
        assert known
        assert [decoder for *_, decoder in counted] == [demo_model.decoder_graph] * 2

    def test_a_roof_that_was_measured_says_how(self):
        rate = Rate(best=2e9, median=1.5e9, least=1e9, tries=7, by="copy")
        found = measured_roofs(Peaks(products={"float32": rate}, bandwidth=rate), "cpu", 2)
        assert found.bandwidth == Roof(
            per_second=2e9, source="measured by copy, 2 threads: 1 to 2 GB/s in 7 tries, median 1.5"
        )


@pytest.fixture
def prediction(demo_bundle):
    sizes = question_sizes(demo_bundle, 5)
    return predict(demo_bundle, device_profile("orin-nano-8"), sizes, 100, 0.5)


@pytest.fixture
def measured(demo_model, known):
    return measure(demo_model, question_sizes(demo_model.bundle, 5), 100)


class TestReport:
    def test_a_prediction_is_called_one_wherever_it_is_shown(self, prediction):
        subject, *_ = roofline_sentences(prediction)
        assert subject.startswith("PREDICTION for Jetson Orin Nano 8 GB, which is not this machine: ")
        assert roofline_table(prediction).columns[-1].header == "at 50%"
        limit_itself = roofline_table(msgspec.structs.replace(prediction, assumed_share=1.0))
        assert [column.header for column in limit_itself.columns][-2:] == ["bound", "limit"]
        axes = Figure().subplots()
        draw(axes, prediction)
        assert "PREDICTION at 50% of the limit" in axes.get_title()
        assert {str(line.get_markerfacecolor()) for line in axes.lines if line.get_marker() == "o"} == {
            "none"
        }

    def test_a_measurement_is_not(self, measured):
        assert roofline_sentences(measured)[0].startswith("Under the roofs of cpu by onnxruntime ")
        assert not any("PREDICTION" in sentence for sentence in roofline_sentences(measured))
        assert [column.header for column in roofline_table(measured).columns][-2:] == ["measured", "share"]
        axes = Figure().subplots()
        draw(axes, measured)
        assert axes.get_title().endswith("5 samples at once: measured")
        assert "none" not in {str(line.get_markerfacecolor()) for line in axes.lines}

    def test_points_and_roofs_are_where_they_belong(self, measured):
        axes = Figure().subplots()
        draw(axes, measured)
        roof, *points = axes.lines
        for line, stage in zip(points, measured.stages, strict=True):
            assert line.get_xydata().tolist() == [[stage.work.intensity, stage.flops_per_second / 1e9]]
        x, y = roof.get_data()
        assert list(y) == [min(20 * each, 200) for each in x]
        assert 10 in list(x), "the ridge"

    def test_sources_and_assumptions_are_said(self, prediction, measured):
        said = " ".join(roofline_sentences(prediction))
        for part in ("1280 GFLOP/s (", "68 GB/s (", "at 50% of the limit, an assumption", "data sheet"):
            assert part in said
        limit_itself = msgspec.structs.replace(prediction, assumed_share=1.0)
        assert "the limit, which nothing reaches" in " ".join(roofline_sentences(limit_itself))
        one = msgspec.structs.replace(prediction, rows=1, tokens=1, samples=1)
        assert ": 1 sample at once, " in roofline_sentences(one)[0]
        assert "answers of 1 token." in roofline_sentences(one)[0]
        even = [msgspec.structs.replace(stage, spread=(0.017, 0.017)) for stage in measured.stages]
        even = roofline_sentences(msgspec.structs.replace(measured, stages=tuple(even)))
        assert "vision 17 ms, prefill 17 ms, decode step 17 ms" in " ".join(even)
        assert "measured: the median; vision 10 ms to 30 ms, " in " ".join(roofline_sentences(measured))

    def test_rows_that_do_not_fit_and_shares_above_one_are_remarked(self, prediction, measured):
        too_many = msgspec.structs.replace(prediction, fits=False)
        assert "do not fit into its memory" in roofline_sentences(too_many)[-1]
        quick = [msgspec.structs.replace(stage, seconds=stage.limit_seconds / 2) for stage in measured.stages]
        too_fast = msgspec.structs.replace(measured, stages=tuple(quick))
        assert any(text.startswith("More than the limit") for text in roofline_sentences(too_fast))
        assert not any("More than the limit" in text for text in roofline_sentences(measured))

    def test_times_that_scatter_are_remarked(self, measured):
        """The quickest vision is half of the median."""
        assert roofline_sentences(measured)[-1].startswith("The machine did something else meanwhile")
        calm = [msgspec.structs.replace(stage, spread=(stage.seconds,) * 2) for stage in measured.stages]
        assert "certificate" in roofline_sentences(msgspec.structs.replace(measured, stages=tuple(calm)))[-1]

    def test_several_stand_side_by_side_in_one_file(self, prediction, measured):
        assert plot_rooflines([prediction, measured], "png").startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0 µs"), (2.5e-6, "2.5 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (12345, "12345 s")],
    )
    def test_times_have_a_unit_that_suits_them(self, seconds, text):
        assert duration(seconds) == text


def run(*arguments):
    return cli.main(["roofline", *arguments], standalone_mode=False)


class TestCommand:
    def test_profiles_are_predicted_one_object_a_line(self, capsys):
        run("--profile", "orin-nano-8", "--profile", "rtx-4090-24", "--rows", "5", "--json")
        nano, rtx = map(json.loads, capsys.readouterr().out.splitlines())
        assert nano["prediction"] is rtx["prediction"] is True
        assert nano["roofs"]["device"] == "Jetson Orin Nano 8 GB"
        assert [stage["name"] for stage in nano["stages"]] == ["vision", "prefill", "decode step"]
        for stage in nano["stages"]:
            assert stage["flops"] == sum(stage["work"]["flops"].values())
            assert stage["bytes"] == sum(stage["work"][part] for part in ("weights", "values", "cache"))
        assert nano["certificate_seconds"] == nano["certificate_limit_seconds"] > rtx["certificate_seconds"]

    def test_help_names_every_profile(self, capsys):
        run("--help")
        said = capsys.readouterr().out
        for profile in device_profiles():
            assert profile.name in said

    @pytest.mark.parametrize("share", ["0.25", "25%"])
    def test_a_share_is_taken_as_it_is_given(self, capsys, share):
        run("--profile", "orin-nano-8", "--share", share, "--json")
        found = json.loads(capsys.readouterr().out)
        assert found["assumed_share"] == 0.25
        assert found["certificate_seconds"] == pytest.approx(4 * found["certificate_limit_seconds"])

    @pytest.mark.usefixtures("known")
    def test_without_a_profile_it_runs_here(self, capsys, tmp_path):
        plot = tmp_path / "roofline.svg"
        run("--rows", "5", "--samples", "50", "--threads", "1", "--json", "--plot", str(plot))
        found = json.loads(capsys.readouterr().out)
        assert found["prediction"] is False
        assert found["roofs"]["device"].startswith("cpu by onnxruntime ")
        assert "1 thread: " in found["roofs"]["bandwidth"]["source"]
        assert found["certificate_seconds"] == pytest.approx(10 * (0.02 + 0.01 + 11 * 0.001))
        assert b"<svg" in plot.read_bytes()

    @pytest.mark.usefixtures("known")
    def test_people_see_a_table_that_fits_their_terminal(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        run("--rows", "5")
        lines = capsys.readouterr().out.splitlines()
        header = ["stage", "GFLOP", "MB", "FLOP/B", "bound", "limit", "measured", "share"]
        assert header in [line.split() for line in lines]
        assert (
            sum(line.startswith("decode step") and line.endswith("%") for line in map(str.strip, lines)) == 1
        )
        assert not any("…" in line for line in lines)

    @pytest.mark.usefixtures("known")
    def test_published_roofs_can_stand_over_what_is_measured_here(self, capsys):
        run("--rows", "5", "--roofs", "rtx-4090-24", "--json")
        found = json.loads(capsys.readouterr().out)
        assert (found["prediction"], found["roofs"]["device"]) == (False, "GeForce RTX 4090")

    def test_a_device_whose_peak_is_not_known_is_refused_with_the_reason(self):
        with pytest.raises(
            InputError, match=r"Jetson AGX Thor 128 GB, for its peak .* no figure of NVIDIA's"
        ):
            run("--profile", "thor-128")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--profile", "abacus"], "no device profile 'abacus'"),
            (["--profile", "orin-nano-8", "--threads", "1"], "--profile runs nothing"),
            (["--profile", "orin-nano-8", "--roofs", "orin-nano-8"], "--profile runs nothing"),
            (["--profile", "orin-nano-8", "--share", "0%"], "must be above 0 and at most 1"),
            (["--profile", "orin-nano-8", "--share", "150%"], "must be above 0 and at most 1"),
            (["--share", "0.5"], "--share goes with --profile"),
            (["--backend", "tensorrt"], "give the device's kind with --roofs"),
            (["--plot", "roofline.doc"], "must end in one of"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, arguments, said):
        with pytest.raises(InputError, match=said):
            run(*arguments)
