"""Where arrays live: one table of cases for the host, the emulated GPU, and a real one where there is one."""

import threading

import numpy as np
import pytest

from edgers_engines import noise
from edgers_engines.device import DeviceArray, Host, Top
from edgers_engines.errors import InputError
from edgers_engines.noise import LATTICE_STEP, Stream, to_lattice

SEED = 0xFEDCBA98765432100123456789ABCDEF
INFINITIES = [np.nan, np.inf, -np.inf]
HOST = Host()


def real_gpu():
    """A GPU, where this machine has one."""
    from edgers_engines.cuda import Cuda
    from edgers_engines.errors import BackendError

    try:
        return Cuda(0)
    except BackendError:
        return None


REAL = real_gpu()


@pytest.fixture(params=["host", "emulated GPU", *(["GPU"] if REAL else [])])
def device(request):
    """Each kind of device; all must do the same."""
    if request.param == "emulated GPU":
        return request.getfixturevalue("emulated_gpu")
    return REAL if request.param == "GPU" else HOST


def put(device, array):
    """A copy of the array on the device."""
    return np.array(array) if isinstance(device, Host) else device.put(np.asarray(array))


def get(array, device):
    """A copy of the array in the host's memory."""
    return array.copy() if isinstance(device, Host) else device.get(array)


def same(array, expected):
    """Equal to the last bit, NaNs too."""
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.tobytes() == expected.tobytes()


class TestEmpty:
    def test_new_memory_has_the_shape_and_type_asked_for(self, device):
        array = device.empty((2, 3, 5), np.float16)
        assert (array.shape, array.dtype, array.ndim, len(array)) == ((2, 3, 5), np.float16, 3, 2)
        assert array.nbytes == 60

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,)])
    def test_there_are_arrays_without_elements(self, device, shape):
        array = device.empty(shape, np.float32)
        assert (array.shape, array.nbytes) == (shape, 0)
        same(get(array, device), np.empty(shape, np.float32))

    def test_more_than_there_is_is_a_memory_error(self, device):
        with pytest.raises(MemoryError):
            device.empty((1 << 50,), np.float32)

    def test_what_is_free_is_a_number_or_unknown(self, device):
        assert (free := device.free_bytes()) is None or free > 0


class TestFill:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("value", [0.0, 1.0, -1e4, np.nan, np.inf])
    @pytest.mark.parametrize("start", [0, 1, 6, 7])
    def test_every_position_from_the_start_on_is_written_in_every_row_and_head(
        self, device, dtype, value, start
    ):
        before = np.arange(3 * 2 * 7 * 4).reshape(3, 2, 7, 4).astype(dtype)
        array = put(device, before)
        device.fill(array, value, start)
        before[:, :, start:] = value
        same(get(array, device), before)

    @pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32])
    @pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (6, 7), (4, 4)])
    def test_positions_from_the_stop_on_are_not_written(self, device, dtype, start, stop):
        before = np.arange(3 * 2 * 7 * 4).reshape(3, 2, 7, 4).astype(dtype)
        array = put(device, before)
        device.fill(array, 9, start, stop)
        before[:, :, start:stop] = 9
        same(get(array, device), before)

    def test_it_starts_at_the_first_position_unless_told(self, device):
        array = put(device, np.ones((2, 3, 4), np.float32))
        device.fill(array, 5)
        same(get(array, device), np.full((2, 3, 4), 5, np.float32))

    def test_a_view_is_filled_and_its_neighbours_are_not(self, device):
        array = put(device, np.zeros((4, 2, 3, 2), np.float32))
        device.fill(array[1:3], 1)
        assert get(array, device).sum(axis=(1, 2, 3)).tolist() == [0, 12, 12, 0]

    def test_nothing_is_filled_without_rows(self, device):
        device.fill(device.empty((0, 2, 3, 4), np.float32), 1)


class TestPaste:
    @staticmethod
    def block(rows=3, positions=2, hidden=4):
        return np.random.default_rng(1).normal(size=(rows, positions, hidden)).astype(np.float32)

    @pytest.mark.parametrize("start", [0, 3, 5])
    @pytest.mark.parametrize("source_lies", ["here", "on the host"])
    def test_the_block_is_written_at_the_start_and_nothing_else_changes(self, device, start, source_lies):
        block, before = self.block(), np.arange(3 * 7 * 4, dtype=np.float32).reshape(3, 7, 4)
        target = put(device, before)
        device.paste(put(device, block) if source_lies == "here" else block, target, start)
        before[:, start : start + 2] = block
        same(get(target, device), before)

    def test_one_block_can_be_broadcast_to_all_rows(self, device):
        block, target = self.block(rows=1), put(device, np.zeros((3, 7, 4), np.float32))
        device.paste(np.broadcast_to(block, (3, 2, 4)), target, 4)
        same(get(target, device)[:, 4:6], np.repeat(block, 3, axis=0))

    def test_a_source_whose_elements_are_strided_arrives_in_order(self, device):
        block, target = self.block(), put(device, np.zeros((3, 4, 2), np.float32))
        device.paste(block.transpose(0, 2, 1), target, 0)
        same(get(target, device), np.ascontiguousarray(block.transpose(0, 2, 1)))

    def test_a_view_of_the_first_rows_can_be_the_target(self, device):
        block, target = self.block(rows=2), put(device, np.zeros((3, 2, 4), np.float32))
        device.paste(block, target[:2], 0)
        same(get(target, device), np.concatenate([block, np.zeros((1, 2, 4), np.float32)]))

    @pytest.mark.parametrize(
        ("rows", "positions", "hidden", "start"),
        [
            pytest.param(2, 2, 4, 0, id="too few rows"),
            pytest.param(4, 2, 4, 0, id="too many rows"),
            pytest.param(3, 2, 5, 0, id="another size"),
            pytest.param(3, 2, 4, 6, id="past the end"),
            pytest.param(3, 8, 4, 0, id="too many positions"),
        ],
    )
    def test_a_block_that_does_not_fit_is_an_error(self, device, rows, positions, hidden, start):
        target = put(device, np.zeros((3, 7, 4), np.float32))
        with pytest.raises(ValueError, match=r"."):
            device.paste(self.block(rows, positions, hidden), target, start)
        assert not get(target, device).any()


class TestCopyRows:
    @staticmethod
    def moved(array, moves, start, stop):
        """One element at a time."""
        array = array.copy()
        for source, target in moves:
            for place in np.ndindex(array.shape[1], stop - start, array.shape[3]):
                head, position, i = place
                array[target, head, start + position, i] = array[source, head, start + position, i]
        return array

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize(
        "moves",
        [
            pytest.param([(3, 1)], id="one"),
            pytest.param([(1, 0), (3, 1), (4, 2)], id="rows that stay move up"),
            pytest.param([(0, row) for row in range(1, 5)], id="the first row to all"),
            pytest.param([(0, 1), (1, 2), (2, 3)], id="a chain downwards: each carries the first"),
            pytest.param([(1, 0), (2, 1), (3, 2), (4, 3)], id="a chain upwards: all move by one"),
            pytest.param([(0, 4), (1, 0), (4, 1)], id="a swap through a third"),
            pytest.param([(2, 2)], id="onto itself"),
            pytest.param([], id="none"),
        ],
    )
    @pytest.mark.parametrize(("start", "stop"), [(0, 9), (2, 7), (8, 9), (4, 4)])
    def test_moves_are_made_in_order_for_the_positions_asked_for(self, device, dtype, moves, start, stop):
        before = np.random.default_rng(2).normal(size=(5, 3, 9, 4)).astype(dtype)
        array = put(device, before)
        device.copy_rows(array, moves, start, stop)
        same(get(array, device), self.moved(before, moves, start, stop))

    def test_more_columns_than_one_block_of_threads_are_all_moved(self, device):
        before = np.random.default_rng(3).normal(size=(2, 4, 33, 16)).astype(np.float32)
        array = put(device, before)
        device.copy_rows(array, [(1, 0)], 1, 32)
        same(get(array, device), self.moved(before, [(1, 0)], 1, 32))


def best(line, tokens):
    """The best token and its lead, by sorting: the lowest of equals, each token once."""
    ranked = sorted(tokens, key=lambda token: (-line[token], token))
    second = line[ranked[1]] if len(ranked) > 1 else -np.inf
    return ranked[0], np.float32(line[ranked[0]]) - np.float32(second)


class TestTop:
    @staticmethod
    def top(device, logits, allowed=None):
        found = device.top(put(device, np.asarray(logits, np.float32)), allowed)
        assert isinstance(found, Top)
        assert (found.token.dtype, found.lead.dtype, found.finite.dtype) == (np.int64, np.float32, np.bool_)
        return found

    def test_the_largest_logit_wins_by_its_distance_to_the_next(self, device):
        top = self.top(device, [[1, 4, 2.5, 3], [9, -1, 8.5, 0]])
        assert (top.token.tolist(), top.lead.tolist(), top.finite.all()) == ([1, 0], [1, 0.5], True)

    @pytest.mark.parametrize("vocabulary", [5, 127, 128, 129, 256, 300, 1000])
    @pytest.mark.parametrize("restricted", [False, True])
    def test_random_rows_agree_with_sorting(self, device, vocabulary, restricted):
        random = np.random.default_rng(vocabulary)
        logits = random.normal(size=(40, vocabulary)).astype(np.float32)
        logits[::2] = np.round(logits[::2])  # with many ties
        allowed = [range(vocabulary)] * 40
        if restricted:
            size = random.integers(1, min(vocabulary, 400), 40)
            allowed = [sorted(random.choice(vocabulary, n, replace=False).tolist()) for n in size]
        top = self.top(device, logits, allowed if restricted else None)
        expected = [best(line, tokens) for line, tokens in zip(logits, allowed, strict=True)]
        assert list(zip(top.token.tolist(), top.lead.tolist(), strict=True)) == expected
        assert top.finite.all()

    @pytest.mark.parametrize("places", [(3, 131), (3, 4), (131, 259), (127, 128), (0, 999), (5, 6, 700)])
    def test_of_equals_the_lowest_token_wins_without_a_lead(self, device, places):
        """Also where the equals lie in parts of the row that are searched apart."""
        logits = np.zeros((1, 1000))
        logits[0, list(places)] = 7
        top = self.top(device, logits)
        assert (top.token.item(), top.lead.item()) == (min(places), 0)
        backwards = self.top(device, logits, [sorted(places, reverse=True)])
        assert (backwards.token.item(), backwards.lead.item()) == (min(places), 0)

    @pytest.mark.parametrize("places", [(3, 131), (131, 3), (3, 4), (4, 3), (999, 0), (0, 999)])
    def test_the_runner_up_may_lie_in_the_same_part_of_the_row_or_in_another(self, device, places):
        logits = np.zeros((1, 1000))
        logits[0, list(places)] = 7, 6.5
        assert self.top(device, logits).lead.item() == 0.5
        assert self.top(device, -logits, [sorted(places)]).token.item() == places[1]

    def test_zero_and_minus_zero_are_equals(self, device):
        assert self.top(device, [[-0.0, 0.0], [0.0, -0.0]]).token.tolist() == [0, 0]

    def test_one_allowed_token_wins_by_an_infinite_lead(self, device):
        top = self.top(device, [[1, 4, 2], [1, 4, 2]], [[2], [0, 2]])
        assert (top.token.tolist(), top.lead.tolist()) == ([2, 2], [np.inf, 1])

    def test_the_only_token_of_a_vocabulary_wins_by_an_infinite_lead(self, device):
        assert self.top(device, [[3]]).lead.tolist() == [np.inf]

    def test_tokens_that_are_not_allowed_neither_win_nor_come_second(self, device):
        top = self.top(device, [[100, 2, 90, 1]], [[1, 3]])
        assert (top.token.tolist(), top.lead.tolist()) == ([1], [1])

    @pytest.mark.parametrize("value", INFINITIES)
    @pytest.mark.parametrize("place", [0, 1, 128, 299])
    @pytest.mark.parametrize("allowed", [None, [[5, 6], [5, 6], [5]]])
    def test_a_row_with_one_number_that_is_not_finite_is_not_finite(self, device, value, place, allowed):
        """Also where it is the logit of a token that is not allowed; the other rows are untouched."""
        logits = np.random.default_rng(4).normal(size=(3, 300)).astype(np.float32)
        clean = self.top(device, logits, allowed)
        logits[1, place] = value
        top = self.top(device, logits, allowed)
        assert top.finite.tolist() == [True, False, True]
        assert (top.token[[0, 2]] == clean.token[[0, 2]]).all()
        assert (top.lead[[0, 2]] == clean.lead[[0, 2]]).all()
        assert 0 <= top.token[1] < 300

    @pytest.mark.parametrize("value", INFINITIES)
    @pytest.mark.parametrize("allowed", [None, [[5, 133], [200]]])
    def test_a_row_of_nothing_else_is_not_finite_and_still_names_a_token(self, device, value, allowed):
        top = self.top(device, np.full((2, 300), value), allowed)
        assert (top.finite.any(), ((top.token >= 0) & (top.token < 300)).all()) == (False, True)

    def test_a_view_of_the_first_rows_is_ranked_alone(self, device):
        logits = put(device, np.array([[1, 2], [4, 3], [np.nan, 0]], np.float32))
        top = device.top(logits[:2], None)
        assert (top.token.tolist(), top.finite.tolist()) == ([1, 0], [True, True])


class TestNoisyCopies:
    @staticmethod
    def canvas(shape=(3, 11, 13)):
        return to_lattice(np.random.default_rng(5).random(shape))

    @staticmethod
    def copies(device, canvas, rows, *, sigma=0.5, seed=SEED, stream=Stream.CERTIFICATION, first=0):
        out = device.empty((rows, *canvas.shape), np.float32)
        device.noisy_copies(canvas, sigma, seed=seed, stream=stream, first=first, out=out)
        return get(out, device)

    @staticmethod
    def reference(canvas, rows, *, sigma=0.5, seed=SEED, stream=Stream.CERTIFICATION, first=0):
        out = np.empty((rows, *canvas.shape), np.float32)
        noise.noisy_copies(canvas, sigma, seed=seed, stream=stream, first=first, out=out)
        return out

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({}, id="none"),
            pytest.param({"stream": Stream.SELECTION}, id="the other stream"),
            pytest.param({"first": 1}, id="the second sample"),
            pytest.param({"first": 2**40 + 3}, id="a late sample"),
            pytest.param({"seed": 0}, id="seed 0"),
            pytest.param({"seed": 2**128 - 1}, id="the last seed"),
            pytest.param({"seed": 1}, id="a seed of low bits"),
            pytest.param({"seed": 1 << 64}, id="a seed of high bits"),
            pytest.param({"sigma": 1.7}, id="the largest sigma"),
            pytest.param({"sigma": 0.01}, id="a small sigma"),
        ],
    )
    def test_they_are_the_samplers_to_the_last_bit(self, device, changed):
        canvas = self.canvas()
        same(self.copies(device, canvas, 7, **changed), self.reference(canvas, 7, **changed))

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 255, 1024])
    def test_any_number_of_values_is_drawn(self, device, size):
        canvas = self.canvas((size,))
        same(self.copies(device, canvas, 3), self.reference(canvas, 3))

    def test_a_hundred_thousand_values_agree(self, device):
        canvas = self.canvas((3, 40, 40))
        same(self.copies(device, canvas, 25), self.reference(canvas, 25))

    def test_chunks_of_rows_are_the_same_noise(self, device):
        canvas = self.canvas()
        whole = self.copies(device, canvas, 5)
        parts = [self.copies(device, canvas, rows, first=first) for first, rows in ((0, 2), (2, 3))]
        same(np.concatenate(parts), whole)

    def test_a_canvas_that_is_not_contiguous_or_not_float64_is_the_same_canvas(self, device):
        canvas = self.canvas()
        turned = np.ascontiguousarray(canvas.transpose(2, 1, 0)).transpose(2, 1, 0)
        same(self.copies(device, turned, 2), self.reference(canvas, 2))
        same(self.copies(device, canvas.astype(np.float32), 2), self.reference(canvas, 2))

    @pytest.mark.parametrize("sigma", [0, -1, 1.8, np.nan, np.inf])
    def test_a_sigma_that_cannot_be_drawn_is_refused(self, device, sigma):
        with pytest.raises(InputError, match="sigma is"):
            self.copies(device, self.canvas(), 1, sigma=sigma)

    def test_they_are_written_into_float32_only(self, device):
        out = device.empty((2, 4), np.float16)
        with pytest.raises(InputError, match="float32"):
            device.noisy_copies(np.zeros(4), 0.5, seed=0, stream=Stream.SELECTION, first=0, out=out)

    def test_another_thread_can_draw(self, device):
        """As it does while the model computes."""
        canvas, drawn = self.canvas(), []
        thread = threading.Thread(target=lambda: drawn.append(self.copies(device, canvas, 3)))
        thread.start()
        thread.join()
        same(drawn[0], self.reference(canvas, 3))

    def test_they_lie_on_the_lattice(self, device):
        steps = self.copies(device, self.canvas(), 3).astype(np.float64) / LATTICE_STEP
        assert (steps == np.rint(steps)).all()


class TestHost:
    @pytest.mark.parametrize(
        "use",
        [
            pytest.param(lambda array: HOST.fill(array, 0), id="fill"),
            pytest.param(lambda array: HOST.paste(array, np.zeros((2, 3, 4)), 0), id="paste from"),
            pytest.param(lambda array: HOST.paste(np.zeros((2, 3, 4)), array, 0), id="paste into"),
            pytest.param(lambda array: HOST.copy_rows(array, [(0, 1)], 0, 1), id="copy_rows"),
            pytest.param(lambda array: HOST.top(array, None), id="top"),
            pytest.param(
                lambda array: HOST.noisy_copies(
                    np.zeros((3, 4)), 0.5, seed=0, stream=Stream.SELECTION, first=0, out=array
                ),
                id="noisy_copies",
            ),
        ],
    )
    def test_an_array_of_a_gpu_is_refused_before_its_address_is_touched(self, use):
        with pytest.raises(TypeError, match="lies on a device, not in the host's memory"):
            use(DeviceArray(0, 0xDEAD, (2, 3, 4), np.float32, None))

    def test_the_certificate_can_tell_the_samplers_apart(self, emulated_gpu):
        assert (HOST.sampler, emulated_gpu.sampler) == (noise.SAMPLERS["cpu"], noise.SAMPLERS["cuda"])
        assert len(set(noise.SAMPLERS.values())) == len(noise.SAMPLERS)


class TestDeviceArray:
    @staticmethod
    def array(shape=(5, 3, 2), dtype=np.float16):
        return DeviceArray(1, 1000, shape, dtype, "the owner")

    @pytest.mark.parametrize(
        ("rows", "pointer", "count"),
        [
            pytest.param(slice(None), 1000, 5, id="all"),
            pytest.param(slice(2), 1000, 2, id="the first two"),
            pytest.param(slice(2, None), 1024, 3, id="from the third"),
            pytest.param(slice(1, 4), 1012, 3, id="the middle"),
            pytest.param(slice(-2, None), 1036, 2, id="the last two"),
            pytest.param(slice(-100, -4), 1000, 1, id="all but four"),
            pytest.param(slice(3, 3), 1036, 0, id="none"),
            pytest.param(slice(4, 2), 1048, 0, id="backwards: none"),
            pytest.param(slice(0, 100), 1000, 5, id="more than there are"),
        ],
    )
    def test_a_view_is_a_range_of_rows(self, rows, pointer, count):
        view = self.array()[rows]
        assert (view.pointer, view.shape, len(view)) == (pointer, (count, 3, 2), count)
        assert (view.nbytes, view.ordinal, view.dtype) == (count * 12, 1, np.float16)
        assert np.empty((5, 3, 2))[rows].shape == view.shape

    def test_views_of_views_count_from_the_view(self):
        view = self.array()[1:4][1:]
        assert (view.pointer, view.shape) == (1024, (2, 3, 2))

    @pytest.mark.parametrize("step", [2, -1, -2])
    def test_a_view_with_a_step_is_refused(self, step):
        with pytest.raises(IndexError, match="contiguous"):
            self.array()[::step]

    def test_sizes_beyond_32_bits_are_counted_in_full(self):
        array = self.array((1 << 20, 1 << 20, 4), np.float32)
        assert array.nbytes == 1 << 44
        assert array[1 << 19 :].pointer == 1000 + (1 << 43)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
    def test_views_of_an_array_without_elements_are_empty(self, shape):
        assert self.array(shape)[:2].nbytes == 0

    def test_a_view_keeps_the_memory_until_it_is_gone_too(self, emulated_gpu, emulated_driver):
        array = emulated_gpu.empty((4, 8), np.float32)
        view = array[2:]
        del array
        assert len(emulated_driver.allocated) == 1
        del view
        assert not emulated_driver.allocated
