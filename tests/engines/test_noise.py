"""The sampler: its integers, its quantile, its statistics, and that its noise adds without rounding."""

import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgers_engines.errors import InputError
from edgers_engines.noise import (
    LATTICE_STEP,
    MAX_SIGMA,
    Stream,
    check_sigma,
    noisy_copies,
    raw_integers,
    standard_normal,
    to_lattice,
    total_variation_bound,
)

ALL_ONES = 2**64 - 1
SEED = 0x0123456789ABCDEFFEDCBA9876543210

# Chances of a false alarm, per comparison, had the seeds of this file been drawn at random.
RARE = 1e-6
RARE_Z = stats.norm.isf(RARE / 2)


def philox(counter, key):
    """Philox4x64-10 as its paper defines it, in Python's integers."""
    c, k = list(counter), list(key)
    for number in range(10):
        if number:
            k = [(k[0] + 0x9E3779B97F4A7C15) & ALL_ONES, (k[1] + 0xBB67AE8584CAA73B) & ALL_ONES]
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & ALL_ONES, (a >> 64) ^ c[3] ^ k[1], a & ALL_ONES]
    return c


def noise_steps(sigma, *, shape=(3, 40, 40), rows=2, seed=SEED, stream=Stream.CERTIFICATION, first=0):
    """The noise alone, in lattice steps: what is added to a canvas of zeros."""
    out = np.empty((rows, *shape), np.float32)
    noisy_copies(np.zeros(shape), sigma, seed=seed, stream=stream, first=first, out=out)
    return out.astype(np.float64) / LATTICE_STEP


class TestRawIntegers:
    @pytest.mark.parametrize(
        ("counter", "key", "expected"),
        [
            pytest.param(
                [0] * 4,
                [0] * 2,
                "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
                id="zeros",
            ),
            pytest.param(
                [ALL_ONES] * 4,
                [ALL_ONES] * 2,
                "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
                id="ones",
            ),
            pytest.param(
                [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
                [0x452821E638D01377, 0xBE5466CF34E90C6C],
                "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
                id="pi",
            ),
        ],
    )
    def test_the_reference_of_this_file_gives_the_published_known_answers(self, counter, key, expected):
        """The vectors are Random123's, philox4x64-10."""
        assert " ".join(f"{value:016x}" for value in philox(counter, key)) == expected

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        seed=st.integers(0, 2**128 - 1),
        index=st.integers(0, 2**63 - 1),
        stream=st.sampled_from(Stream),
        count=st.integers(1, 23),
    )
    def test_block_b_is_philox_at_counter_b_plus_1_index_stream_0(self, seed, index, stream, count):
        blocks = [
            philox([block + 1, index, int(stream), 0], [seed & ALL_ONES, seed >> 64])
            for block in range(math.ceil(count / 4))
        ]
        expected = np.array(blocks, np.uint64).ravel()[:count]
        found = raw_integers(seed, stream, index, count)
        assert found.dtype == np.uint64
        np.testing.assert_array_equal(found, expected)

    def test_a_block_far_into_a_sample_is_where_its_counter_says(self):
        """The last block of a 336x336 colour canvas."""
        blocks = 3 * 336 * 336 // 4
        found = raw_integers(SEED, Stream.CERTIFICATION, 99, 4 * blocks)[-4:]
        assert found.tolist() == philox([blocks, 99, 1, 0], [SEED & ALL_ONES, SEED >> 64])

    @pytest.mark.parametrize(
        ("stream", "expected"),
        [
            pytest.param(
                Stream.SELECTION,
                "f22c79bedd2c5ee5 d1900963f91a7d9f 513412845d6a4f9a ed1eb01fe4626476 "
                "69a3f3d9911c4177 c8a9cf4895fcab5d e0d8b4e7beaf00c1 92f5f7a994736052",
                id="selection",
            ),
            pytest.param(
                Stream.CERTIFICATION,
                "cfb0af08e1adeec2 0d9102df9b54f7f9 4cadf96542412b61 2252f07c8a281312 "
                "1bb4ece8ed25976f 026530b50660895d dbeac9b8944f50e7 2122f1f3b1796885",
                id="certification",
            ),
        ],
    )
    def test_the_integers_of_sample_5_are_frozen_for_good(self, stream, expected):
        """A certificate from years ago replays only if these never change."""
        found = raw_integers(SEED, stream, 5, 8)
        assert " ".join(f"{value:016x}" for value in found.tolist()) == expected


class TestLatticeIntegers:
    @pytest.mark.parametrize(
        ("stream", "sigma", "expected"),
        [
            pytest.param(
                Stream.SELECTION,
                0.25,
                [-35598, -123629, 237175, -48741, 355810, -149807, -81247, -379103],
                id="selection",
            ),
            pytest.param(
                Stream.CERTIFICATION,
                0.25,
                [-129027, 34925, 220186, 89830, 72013, 6149, -94633, 86604],
                id="certification",
            ),
            pytest.param(
                Stream.CERTIFICATION,
                1.7,
                [-877382, 237492, 1497264, 610843, 489688, 41811, -643503, 588909],
                id="largest-sigma",
            ),
        ],
    )
    def test_the_noise_of_sample_5_is_frozen_for_good(self, stream, sigma, expected):
        """The numbers were computed with mpmath at 60 digits from the reference Philox."""
        found = noise_steps(sigma, shape=(8,), rows=1, stream=stream, first=5)
        assert found[0].tolist() == expected


GRID = sorted(
    {0, 1, 2, 2**63 - 2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1}
    | {2**63 - 2**power for power in range(63)}  # towards the upper tail
    | {2**63 + 2**power for power in range(63)}  # towards the lower tail
    | {2**power for power in range(64)}  # towards the median from above
    | {2**64 - 2**power for power in range(64)}  # towards the median from below
    | {int(2**64 * 0.425) + step for step in range(-3, 4)}  # where the centre meets the middle branch
    | {2**63 - round(2**64 * math.exp(-25)) + step for step in (-(2**20), 0, 2**20)}  # where r passes 5
    | {(2 * number + 1) * 2**64 // 1001 for number in range(500)}
)


class TestStandardNormal:
    def test_it_is_the_normal_quantile_to_49_bits_from_the_median_to_the_last_integer(self):
        """Against mpmath at 50 digits; the total-variation bound allows 2^-47."""
        found = standard_normal(np.array(GRID, np.uint64))
        with mpmath.workdps(50):
            for integer, z in zip(GRID, found.tolist(), strict=True):
                signed = integer - 2**64 if integer >= 2**63 else integer
                expected = mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(2 * signed + 1) / 2**64)
                assert abs(z - expected) <= abs(expected) * mpmath.mpf(2) ** -49, integer

    def test_its_centre_is_frozen_to_the_last_bit(self):
        """There it takes + - x / alone, in a fixed order: the same on every machine, however sped up."""
        raw = raw_integers(SEED, Stream.CERTIFICATION, 0, 100_000)
        centre = np.abs(raw.view(np.int64) * 2.0**-64) < 0.425
        found = standard_normal(raw)[centre].astype("<f8")
        assert found.size == 84915
        expected = "29da2a206ae1872d2c48be21dd2205965f1c66e695252eeeea0e15fed42a61b1"
        assert hashlib.sha256(found.tobytes()).hexdigest() == expected

    def test_a_value_does_not_depend_on_what_is_transformed_beside_it(self):
        """Alone, or among others of all three branches: to the last bit."""
        raw = np.array(GRID, np.uint64)
        alone = [standard_normal(raw[number : number + 1])[0] for number in range(raw.size)]
        np.testing.assert_array_equal(standard_normal(raw), alone)
        np.testing.assert_array_equal(standard_normal(raw[::-1].copy()), alone[::-1])

    def test_it_is_odd_to_the_last_bit_in_the_tails_and_to_two_roundings_in_the_centre(self):
        """Integer k and its mirror image -1 - k; in the centre k + 1/2 itself is rounded beyond 2^52."""
        raw = np.concatenate([np.array(GRID, np.uint64), raw_integers(7, Stream.SELECTION, 0, 200_000)])
        z, mirrored = standard_normal(raw), standard_normal(~raw)
        tail = np.abs(z) > stats.norm.ppf(0.925001)
        assert 10_000 < tail.sum() < 50_000
        np.testing.assert_array_equal(z[tail], -mirrored[tail])
        np.testing.assert_array_less(np.abs(z + mirrored), np.abs(z) * 2.0**-49)

    def test_the_sign_of_the_integer_is_the_sign_of_the_value(self):
        z = standard_normal(np.array([0, 2**63 - 1, 2**63, 2**64 - 1], np.uint64))
        assert np.sign(z).tolist() == [1, 1, -1, -1]

    def test_the_largest_value_is_below_the_documented_bound(self):
        assert 9.15 < standard_normal(np.array([2**63 - 1], np.uint64))[0] <= 9.2

    def test_it_rises_across_the_joints_of_its_three_branches(self):
        for joint in (int(2**64 * 0.425), 2**63 - round(2**64 * math.exp(-25))):
            steps = np.array([joint + (step << 16) for step in range(-500, 500)], np.uint64)
            assert np.all(np.diff(standard_normal(steps)) > 0)


@pytest.fixture(scope="module")
def ten_million():
    """100 samples of 100,000 values at sigma 1: float64 [100, 100,000]."""
    return noise_steps(1.0, shape=(100_000,), rows=100) * LATTICE_STEP


class TestStatistics:
    @pytest.mark.parametrize(
        ("power", "mean", "variance"),
        [
            pytest.param(1, 0, 1, id="mean"),
            pytest.param(2, 1, 2, id="variance"),
            pytest.param(3, 0, 15, id="third"),
            pytest.param(4, 3, 96, id="fourth"),
        ],
    )
    def test_the_moments_of_ten_million_values_are_the_normals(self, ten_million, power, mean, variance):
        found = float(np.mean(ten_million**power))
        assert abs(found - mean) <= RARE_Z * math.sqrt(variance / ten_million.size)

    @pytest.mark.parametrize("side", [pytest.param(1, id="upper"), pytest.param(-1, id="lower")])
    @pytest.mark.parametrize("cut", [3, 4, 5])
    def test_the_tails_hold_as_many_values_as_a_normals(self, ten_million, cut, side):
        """Limits of the exact binomial."""
        expected = stats.binom(ten_million.size, stats.norm.sf(cut))
        count = int(np.count_nonzero(side * ten_million > cut))
        assert expected.ppf(RARE / 2) <= count <= expected.isf(RARE / 2)

    def test_the_whole_distribution_passes_kolmogorov_and_smirnov(self, ten_million):
        distribution = stats.norm.cdf(np.sort(ten_million, axis=None))
        ranks = np.arange(distribution.size + 1) / distribution.size
        distance = max(np.max(distribution - ranks[:-1]), np.max(ranks[1:] - distribution))
        # Rounding to the lattice moves a value by half a step at most, and the density is below 0.4.
        limit = stats.kstwobign.isf(RARE) / math.sqrt(distribution.size) + 0.4 * LATTICE_STEP / 2
        assert distance <= limit

    @pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 1 << 15])
    def test_values_of_one_sample_are_uncorrelated(self, ten_million, lag):
        """Philox makes four values at a time, and the code transforms 2^15 at a time."""
        products = ten_million[:, lag:] * ten_million[:, :-lag]
        assert abs(products.mean()) <= RARE_Z / math.sqrt(products.size)

    @pytest.mark.parametrize("distance", [1, 2, 64])
    def test_samples_are_uncorrelated(self, ten_million, distance):
        products = ten_million[distance:] * ten_million[:-distance]
        assert abs(products.mean()) <= RARE_Z / math.sqrt(products.size)

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"stream": Stream.SELECTION}, id="stream"),
            pytest.param({"seed": SEED + 1}, id="next-seed"),
            pytest.param({"seed": SEED ^ 1 << 64}, id="upper-half-of-the-seed"),
        ],
    )
    def test_streams_and_seeds_are_uncorrelated(self, ten_million, other):
        products = ten_million[:10] * noise_steps(1.0, shape=(100_000,), rows=10, **other) * LATTICE_STEP
        assert abs(products.mean()) <= RARE_Z / math.sqrt(products.size)

    def test_sigma_scales_the_normal_before_it_is_rounded(self):
        """Not after: sigma times rounded steps would leave the lattice coarser than 2^-20."""
        z = standard_normal(raw_integers(SEED, Stream.CERTIFICATION, 0, 50_000))
        for sigma in (2.0**-20, 0.25, 0.5, 1.7):
            found = noise_steps(sigma, shape=(50_000,), rows=1)[0]
            np.testing.assert_array_equal(found, np.rint(sigma * 2**20 * z))


class TestSamples:
    CANVAS = to_lattice(np.linspace(0, 1, 3 * 50 * 70).reshape(3, 50, 70))

    def copies(self, rows, first=0, *, canvas=CANVAS, seed=SEED, stream=Stream.CERTIFICATION):
        out = np.full((rows, *canvas.shape), np.nan, np.float32)
        noisy_copies(canvas, 0.5, seed=seed, stream=stream, first=first, out=out)
        return out

    @pytest.mark.parametrize("chunk", [1, 7, 23])
    def test_chunks_of_any_size_make_the_same_samples(self, chunk):
        whole = self.copies(23)
        pieces = [self.copies(min(chunk, 23 - first), first) for first in range(0, 23, chunk)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)

    def test_two_threads_that_draw_at_once_do_not_disturb_each_other(self):
        canvas, together = np.zeros(100_000), threading.Barrier(2)

        def draw(first):
            together.wait(60)
            return self.copies(10, first, canvas=canvas)

        with ThreadPoolExecutor(2) as threads:
            pieces = list(threads.map(draw, (0, 10)))
        np.testing.assert_array_equal(np.concatenate(pieces), self.copies(20, canvas=canvas))

    def test_samples_made_in_reverse_order_are_the_same(self):
        backwards = np.concatenate([self.copies(1, first) for first in reversed(range(9))])
        np.testing.assert_array_equal(backwards[::-1], self.copies(9))

    def test_a_larger_canvas_begins_with_the_noise_of_a_smaller_one(self):
        """Values are numbered in the order of memory, whatever the shape; 2^15 is where blocks end."""
        small, large = noise_steps(0.5, shape=((1 << 15) + 5,)), noise_steps(0.5, shape=(3, 1 << 14))
        np.testing.assert_array_equal(large.reshape(2, -1)[:, : (1 << 15) + 5], small)

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"stream": Stream.SELECTION}, id="stream"),
            pytest.param({"first": 1}, id="index"),
            pytest.param({"seed": SEED + 1}, id="seed"),
            pytest.param({"seed": SEED ^ 1 << 127}, id="highest-bit-of-the-seed"),
        ],
    )
    def test_another_stream_index_or_seed_makes_other_noise(self, other):
        same = self.copies(1) == self.copies(1, **other)
        assert same.mean() < 1e-3

    def test_no_two_samples_of_a_stream_are_alike(self):
        flat = self.copies(40).reshape(40, -1)
        assert len(np.unique(flat[:, :4], axis=0)) == 40

    def test_the_canvas_is_only_read(self):
        canvas = self.CANVAS.copy()
        canvas.flags.writeable = False
        np.testing.assert_array_equal(self.copies(2, canvas=canvas), self.copies(2))
        np.testing.assert_array_equal(canvas, self.CANVAS)

    def test_an_array_that_is_not_contiguous_is_written_or_refused(self):
        """Never left as it was: stale samples would be counted as fresh ones."""
        out = np.full((2, 3, 60, 80), np.nan, np.float32)[:, :, 5:55, 5:75]
        try:
            noisy_copies(self.CANVAS, 0.5, seed=SEED, stream=Stream.CERTIFICATION, first=0, out=out)
        except InputError:
            return
        np.testing.assert_array_equal(out, self.copies(2))


def share_off_by(values, clean, spacing):
    """What a rounding detector looks at: the share of values that differ from `clean` by whole spacings.

    Only values between -1/4 and -.17: there a float32 is finer than the noise that made it.
    """
    near = values[(values > -0.25) & (values < -0.17)].astype(np.float64)
    return np.mean(np.mod((near - clean) / spacing, 1) == 0)


class TestFloatingPoint:
    CANVASES = (
        pytest.param(0.0, id="black"),
        pytest.param(1.0, id="white"),
        pytest.param(1 / 3, id="third"),
        pytest.param(0.1, id="tenth"),
        pytest.param(254 / 255, id="pixel"),
        pytest.param(LATTICE_STEP, id="one-step"),
        pytest.param(1 - LATTICE_STEP, id="one-step-below-white"),
        pytest.param(-0.14, id="undershoot"),
        pytest.param(1.31, id="overshoot"),
    )

    @pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0, MAX_SIGMA])
    @pytest.mark.parametrize("value", CANVASES)
    def test_canvas_and_noise_add_without_rounding(self, value, sigma):
        canvas = to_lattice(np.full((3, 40, 40), value))
        self.check_exact(canvas, sigma)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32), sigma=st.floats(1e-3, MAX_SIGMA))
    def test_random_canvases_and_noise_add_without_rounding(self, seed, sigma):
        canvas = to_lattice(np.random.default_rng(seed).uniform(-0.3, 1.3, (3, 40, 40)))
        self.check_exact(canvas, sigma)

    def check_exact(self, canvas, sigma):
        """Every noisy value is a lattice point: the canvas' steps plus the noise of a black canvas."""
        out = np.empty((2, *canvas.shape), np.float32)
        noisy_copies(canvas, sigma, seed=SEED, stream=Stream.CERTIFICATION, first=0, out=out)
        steps = out.astype(np.float64) / LATTICE_STEP
        np.testing.assert_array_equal(steps, np.rint(steps))
        np.testing.assert_array_equal(steps, canvas / LATTICE_STEP + noise_steps(sigma))

    def test_a_naive_float32_sum_fails_the_same_check(self):
        canvas = np.full((3, 40, 40), 1 / 3, np.float32)
        noise = np.random.default_rng(1).normal(0, 0.5, canvas.shape).astype(np.float32)
        steps = (canvas + noise).astype(np.float64) / LATTICE_STEP
        assert np.any(steps != np.rint(steps))

    def test_a_rounding_detector_sees_through_a_naive_sum_but_not_through_the_lattice(self):
        """Two images one rounding apart: under real Gaussian noise no one could tell them from each other."""
        shape = (200_000,)
        naive, lattice = [], []
        for number in range(2):
            clean = np.float32(1 / 3) + np.float32(number * 2.0**-25)
            noise = np.random.default_rng(number).normal(0, 0.5, shape).astype(np.float32)
            naive.append(clean + noise)
            canvas = to_lattice(np.full(shape, 1 / 3)) + number * LATTICE_STEP
            out = np.empty((1, *shape), np.float32)
            noisy_copies(canvas, 0.5, seed=SEED, stream=Stream.CERTIFICATION, first=number, out=out)
            lattice.append(out[0])
        spacings = [2.0**-power for power in range(14, 27)]

        def largest_gap(pair, clean):
            shares = [[share_off_by(values, clean, spacing) for spacing in spacings] for values in pair]
            return np.max(np.abs(np.subtract(*shares)))

        assert largest_gap(naive, float(np.float32(1 / 3))) > 0.9
        near = np.count_nonzero((lattice[0] > -0.25) & (lattice[0] < -0.17))
        assert near > 5000
        assert largest_gap(lattice, to_lattice(np.array(1 / 3))) < RARE_Z * math.sqrt(0.5 / near)

    def test_putting_an_image_on_the_lattice_moves_no_value_by_more_than_half_a_step(self):
        image = np.random.default_rng(3).uniform(-0.3, 1.3, 100_000)
        moved = np.abs(to_lattice(image) - image)
        assert 0.99 * LATTICE_STEP / 2 < moved.max() <= LATTICE_STEP / 2
        np.testing.assert_array_equal(to_lattice(to_lattice(image)), to_lattice(image))


def derived_bound(values, sigma):
    """The terms of the documented derivation, each integrated numerically."""
    error, cut = mpmath.mpf(2) ** -47, 7
    width = mpmath.mpf(2) ** -20 / mpmath.mpf(sigma)
    square = mpmath.quad(lambda z: z**2 * mpmath.npdf(z), [-cut, 0, cut])
    inverse_density = mpmath.quad(lambda z: 1 / mpmath.npdf(z), [-cut, -6, 0, 6, cut])
    transform = 2 * (2 * error / width) ** 2 * square
    uniforms = 2 * (mpmath.mpf(2) ** -63 / width) ** 2 * inverse_density
    tails = 2 * values * 2 * mpmath.ncdf(-cut)
    return mpmath.sqrt(values * (transform + uniforms) / 2) + tails


class TestTotalVariationBound:
    @pytest.mark.parametrize("sigma", [0.01, 0.25, 0.5, MAX_SIGMA])
    @pytest.mark.parametrize("values", [1, 3 * 96 * 96, 3 * 336 * 336, 10**7])
    def test_it_covers_its_derivation_with_the_ten_percent_it_promises(self, values, sigma):
        expected = 1.1 * derived_bound(values, sigma)
        assert expected <= total_variation_bound(values, sigma) <= 1.03 * expected

    def test_it_grows_with_the_number_of_values(self):
        bounds = [total_variation_bound(values, 0.5) for values in (1, 10, 10**3, 10**5, 10**7)]
        assert bounds == sorted(set(bounds))

    def test_it_grows_with_sigma(self):
        bounds = [total_variation_bound(10**5, sigma) for sigma in (0.01, 0.1, 0.5, 1, MAX_SIGMA)]
        assert bounds == sorted(set(bounds))

    def test_it_is_negligible_for_a_336_pixel_canvas(self):
        assert 0 < total_variation_bound(3 * 336 * 336, 0.5) < 1e-5


@pytest.mark.parametrize("sigma", [0, -0.0, -0.5, math.nan, math.inf, -math.inf, 1.71, 1e12])
def test_a_sigma_that_cannot_be_drawn_exactly_is_refused_with_its_value(sigma):
    out = np.full((1, 4), 7, np.float32)
    with pytest.raises(InputError, match=r"^sigma is .*above 0 and at most 1\.7$") as refusal:
        check_sigma(sigma)
    assert str(sigma) in str(refusal.value)
    with pytest.raises(InputError):
        noisy_copies(np.zeros(4), sigma, seed=1, stream=Stream.SELECTION, first=0, out=out)
    assert np.all(out == 7)


@pytest.mark.parametrize("sigma", [5e-324, 0.25, 1.0, MAX_SIGMA])
def test_a_sigma_up_to_the_limit_is_returned_as_it_is(sigma):
    assert check_sigma(sigma) == sigma
