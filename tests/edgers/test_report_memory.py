"""Memory plans for people: what is missing, and what would make it fit."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace as replace_plan

import pytest
from msgspec.structs import replace
from rich.console import Console

from edgers.cli import cli
from edgers.report.memory import memory_table
from edgers_engines.device_profile import device_profile
from edgers_engines.errors import InputError
from edgers_engines.memory_plan import MemoryPlan

GB = 10**9
NANO = device_profile("orin-nano-8")  # 6.4 GB are free


def shown(manifest, **sizes):
    plan = MemoryPlan(**{"positions": 700, "held": GB // 100, "computing": GB // 100, **sizes})
    shortest = replace_plan(plan, positions=600, cache=plan.cache // 2)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(memory_table(manifest, plan, shortest, [NANO]))
    return " ".join(console.export_text().split())


@pytest.mark.parametrize(
    ("precision", "weights", "cache", "said"),
    [
        ("fp16", 5 * GB, GB // 3, "orin-nano-8 8.6 GB 6.4 GB 4"),
        ("fp16", 5 * GB, GB // 10**6, "orin-nano-8 8.6 GB 6.4 GB 72"),
        ("fp16", 1, 1, "6.4 GB 322"),
        ("fp16", 14 * GB, GB // 3, "none 7.9 GB too little: export with --quantize int4-weights"),
        ("fp16", 20 * GB, GB // 3, "none 13.9 GB too little: a smaller model"),
        ("fp32", 10 * GB, GB // 3, "none 3.9 GB too little: export with --precision fp16"),
        ("fp32", 28 * GB, GB // 3, "too little: export with --precision fp16 --quantize int4-weights"),
        ("fp32", 40 * GB, GB // 3, "none 33.9 GB too little: a smaller model"),
        ("fp16", 6 * GB, GB // 2, "none 77.5 MB too little: a smaller --max-length, 600 at least"),
        ("fp16", 6 * GB, GB, "none 577.5 MB too little: export with --quantize int4-weights"),
    ],
)
def test_what_fits_and_what_would_make_it_fit(demo_bundle, precision, weights, cache, said):
    manifest = replace(demo_bundle.manifest, precision=precision)
    assert said in shown(manifest, weights=weights, cache=cache)


def test_weights_that_are_narrow_already_are_not_to_be_narrowed_again(demo_bundle):
    manifest = replace(demo_bundle.manifest, precision="fp16", quantization="int8-weights")
    assert "too little: a smaller model" in shown(manifest, weights=8 * GB, cache=GB // 3)


def run(capsys, *arguments):
    code = cli.main(["plan", *arguments], standalone_mode=False)
    return code, capsys.readouterr().out


def test_every_profile_has_a_line_and_the_figures_are_explained(capsys):
    code, out = run(capsys, "--memory")
    assert code == 0
    assert len(re.findall(r"^ +(?:orin|thor|rtx|h200)\S* .* 4096 or more", out, re.M)) == 6
    assert "6.5 MB of weights" in " ".join(out.split())


def test_a_program_gets_bytes(capsys, demo_bundle):
    _, out = run(capsys, "--memory", "--json", "--profile", "thor-128", "--max-length", "100")
    report = json.loads(out)
    assert (report["bundle"], report["positions"]) == (demo_bundle.digest, 100)
    assert report["sample"] == report["cache"] + report["held"] + report["computing"]
    (device,) = report["devices"]
    assert device["samples_at_once"] == (device["free_bytes"] - report["weights"]) // report["sample"]
    assert device["missing_bytes"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "--sigma", "0.5"], "--memory goes with --bundle"),
        (["--memory", "--profile", "abacus"], "no device profile 'abacus'"),
        (["--sigma", "0.5", "--target-radius", "0.2", "--profile", "thor-128"], "go with --memory"),
        (["--memory", "--max-length", "3"], "3 positions; this model takes"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, arguments, said):
    with pytest.raises(InputError, match=said):
        run(capsys, *arguments)
