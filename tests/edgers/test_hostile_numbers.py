"""Hostile numbers: each row is an entry point, what is given there, and how that ends."""

import json
import math
import re

import numpy as np
import pytest

from edgers import demo
from edgers.certificate import Certificate
from edgers.certify import Certifier
from edgers.smoothing.bounds import MAX_SAMPLES, check_alpha, check_counts, clopper_pearson_lower
from edgers.smoothing.radius import certified_radius, check_radius_sigma
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.noise import check_sigma
from edgers_engines.records import parse
from tests.edgers.hostile import QUESTION, command, refused

NOT_NUMBERS = (True, False, "0.25", b"1", None, [0.25], 1j)
BEYOND_FLOAT = 10**400

# --- the Python API: Certifier ------------------------------------------------------------------------------

CERTIFIER = [
    *(("sigma", value, r"sigma is") for value in (-0.0, -math.inf, 1e308, 5e300, 2**63, BEYOND_FLOAT)),
    *(("sigma", value, "sigma is .* must be a number") for value in NOT_NUMBERS),
    *(("alpha", value, r"alpha is") for value in (-0.0, -1e-300, 0.5 + 1e-16, 1e308, 2**63, BEYOND_FLOAT)),
    *(("alpha", value, "alpha is .* must be a number") for value in NOT_NUMBERS),
    *(("samples", value, "the number of samples is") for value in (-(2**63), MAX_SAMPLES + 1, 2**63)),
    *(("samples", value, "samples is .* whole number") for value in (*NOT_NUMBERS, 12.0, math.nan)),
    *(("selection", value, "selection is") for value in (-(2**63), MAX_SAMPLES + 1, 2**63)),
    *(("selection", value, "selection is .* whole number") for value in (True, "16", 2.0, math.inf)),
    *(("batch_size", value, "batch_size is .* whole number") for value in (True, "32", 2.5, math.nan)),
]


@pytest.mark.parametrize(("name", "value", "said"), CERTIFIER)
def test_the_certifier_refuses_and_names_the_number_before_it_loads_a_model(name, value, said):
    with pytest.raises(InputError, match=said) as caught:
        Certifier(None, **{"sigma": 0.25, name: value})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [True, 1.5, "2", -(2**63), 2**63])
def test_a_backend_refuses_a_hostile_number_of_threads(value):
    with pytest.raises(InputError, match="threads is"):
        open_backend(threads=value)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param({"sigma": np.float32(0.25)}, id="sigma by numpy"),
        pytest.param({"sigma": 1}, id="sigma as an integer"),
        pytest.param({"sigma": 5e-324}, id="the smallest sigma"),
        pytest.param({"alpha": np.float64(0.01)}, id="alpha by numpy"),
        pytest.param({"alpha": 5e-324}, id="the smallest alpha"),
        pytest.param({"alpha": math.nextafter(0.5, 0)}, id="the largest alpha"),
        pytest.param({"samples": np.int64(2), "selection": np.uint8(1)}, id="counts by numpy"),
        pytest.param({"samples": 1, "selection": 1}, id="one sample of each"),
        pytest.param({"batch_size": 2**63}, id="batches larger than all samples"),
    ],
)
def test_a_strange_but_sound_number_is_certified_with_and_survives_being_written(
    demo_bundle, first_frame, numbers
):
    arguments = {"sigma": 0.25, "samples": 3, "selection": 1, **numbers}
    made = Certifier(demo_bundle, **arguments).certify(first_frame, demo.PROMPT, choices=demo.ACTIONS)
    assert parse(made.to_json(), Certificate) == made


# --- the statistics -----------------------------------------------------------------------------------------

STATISTICS = [
    *((check_alpha, (value,), "alpha is") for value in (-0.0, -math.inf, 1e308, 2**63, BEYOND_FLOAT)),
    *((check_counts, pair, "the number of samples is") for pair in ((0, -1), (0, 2**63), (0, -(2**63)))),
    *((check_counts, pair, "votes of") for pair in ((2**63, 10), (-(2**63), 10), (11, 10), (1e308, 10))),
    (check_counts, (math.nan, 10), "votes of"),
    (check_counts, (1, math.nan), "whole numbers"),
    (check_counts, (1, math.inf), "whole numbers"),
    *(
        (clopper_pearson_lower, values, said)
        for values, said in (
            ((0, 0, 0.001), "the number of samples is 0"),
            ((1, 1, 0), "alpha is 0"),
            ((1, 1, 0.5), "alpha is 0.5"),
            ((1, 1, math.nan), "alpha is nan"),
            ((2, 1, 0.001), "2 votes of 1"),
        )
    ),
    *(
        (check_radius_sigma, (value,), "sigma is")
        for value in (-0.0, -math.inf, 1e12, 1e308, 2**63, BEYOND_FLOAT)
    ),
    *((check_sigma, (value,), "sigma is") for value in (-0.0, -math.inf, 1.7000001, 1e308, 2**63)),
    *(
        (certified_radius, (clopper_pearson_lower(9, 10, 0.01), 1.0, value), "the floor is")
        for value in (0, -0.0, math.inf, -math.inf, 1e308, 2**63, BEYOND_FLOAT)
    ),
]


@pytest.mark.parametrize(("function", "values", "said"), STATISTICS)
def test_the_statistics_refuse_and_name_the_number(function, values, said):
    with pytest.raises(ValueError, match=said):
        function(*values)


@pytest.mark.parametrize(
    ("votes", "samples", "alpha"),
    [(1, 2, 5e-324), (1, 3, 5e-324), (1, 10**9, 5e-324), (2, 3, 1e-320), (1, 1, 5e-324)],
)
def test_a_bound_too_small_for_floats_is_rounded_down_and_not_up(votes, samples, alpha):
    """Floats below the normal ones are far apart: fuzzing found bounds of twice what is exact."""
    import mpmath

    with mpmath.workdps(700):
        lower = mpmath.mpf(clopper_pearson_lower(votes, samples, alpha).value)
        few = range(votes)
        tail = 1 - sum(mpmath.binomial(samples, i) * lower**i * (1 - lower) ** (samples - i) for i in few)
        exact = lower**samples if votes == samples else tail
    assert exact <= mpmath.mpf(alpha) * (1 + mpmath.mpf(10) ** -9)


# --- the command line ---------------------------------------------------------------------------------------

HUGE = "1" + "0" * 30
COMMANDS = {
    "radius": (["--votes", "9", "--of", "10", "--sigma", "0.5"], ()),
    "certify": (["{frame}", *QUESTION, "--sigma", "0.25"], ()),
}
OPTIONS = [
    *(("radius", "--votes", value, "votes of 10") for value in ("-1", str(2**63), HUGE)),
    *(("radius", "--votes", value, "is not a valid integer") for value in ("nan", "inf", "1e3", "", "true")),
    *(("radius", "--of", value, "the number of samples is") for value in ("-1", str(2**63), HUGE)),
    *(("radius", "--of", value, "is not a valid integer") for value in ("nan", "10.0", "ten")),
    *(("radius", "--alpha", value, "alpha is") for value in ("inf", "-inf", "1", "1e308", "1e-400", "1e9")),
    ("radius", "--alpha", "0,001", "is not a valid float"),
    *(("radius", "--sigma", value, "sigma is") for value in ("-inf", "1e308", "1e-400", "-0")),
    *(("radius", "--floor", value, "the floor is") for value in ("inf", "-inf", "-1", "1e308")),
    *(("certify", "--sigma", value, "sigma is") for value in ("-inf", "1e12", "1e308", "1e-400", "-0")),
    ("certify", "--sigma", "0,25", "is not a valid float"),
    *(("certify", "--alpha", value, "alpha is") for value in ("nan", "inf", "-inf", "1", "1e12", "-0.1")),
    *(("certify", "--samples", value, "the number of samples is") for value in (str(2**63), HUGE)),
    *(("certify", "--samples", value, "is not a valid integer") for value in ("nan", "1e3", "12.0", "true")),
    *(("certify", "--selection", value, "selection is") for value in ("-1", str(2**63), HUGE)),
    *(("certify", "--selection", value, "is not a valid integer") for value in ("nan", "inf")),
    *(("certify", "--batch-size", value, "the batch size is") for value in ("-1", f"-{2**63}")),
    ("certify", "--batch-size", "inf", "is not a valid integer"),
    *(("certify", "--threads", value, "threads is") for value in ("-1", str(2**63))),
    ("certify", "--threads", "all", "is not a valid integer"),
]


@pytest.mark.parametrize(("name", "option", "value", "said"), OPTIONS)
def test_an_option_with_a_hostile_number_ends_in_one_line(
    *, monkeypatch, capsys, first_frame, name, option, value, said
):
    arguments = [argument.format(frame=first_frame) for argument in COMMANDS[name][0]]
    refused(command(monkeypatch, capsys, name, *arguments, f"{option}={value}"), 2, said)


FIELDS = [
    *(("n", value) for value in (0, -1, 2**63, 1e308, True, "100", None)),
    *(("alpha", value) for value in (0, 0.5, -1, 1e308, True, "0.001")),
    *(("sigma", value) for value in (0, -1, 1.71, 1e12, 1e308, False, "0.25")),
    *(("radius", value) for value in (1e308, -1, 0, 2**63, True)),
    *(("p_lower", value) for value in (1, 2, -1, 1e308)),
    *(("batch_size", value) for value in (0, -1, 1.5)),
    *(("votes", value) for value in ({}, {"selection": {}, "certification": {}}, 5)),
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_verify_refuses_a_certificate_with_a_hostile_number(
    *, monkeypatch, capsys, certified, tmp_path, field, value
):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**json.loads(certified.to_json()), field: value}))
    refused(command(monkeypatch, capsys, "verify", path), 1, re.escape(field))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_verify_refuses_what_json_has_no_number_for(monkeypatch, capsys, certified, tmp_path, text):
    path = tmp_path / "c.json"
    path.write_bytes(re.sub(rb'"sigma": [0-9.]+', b'"sigma": ' + text.encode(), certified.to_json()))
    refused(command(monkeypatch, capsys, "verify", path), 1, "c.json is not a certificate|inconsistent")
