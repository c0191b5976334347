"""Where a model's arrays live, and the few operations on them that are no graph's."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgers_engines.errors import InputError
from edgers_engines.noise import SAMPLERS, Stream, noisy_copies

Array = NDArray[Any]


class DeviceArray:
    """Contiguous memory of a device. It is freed when the array and its views are gone.

    Attributes:
        ordinal: which device.
        pointer: the address of the first element, there.
        shape: sizes.
        dtype: of an element.
    """

    def __init__(
        self, ordinal: int, pointer: int, shape: tuple[int, ...], dtype: DTypeLike, owner: object
    ) -> None:
        self.ordinal, self.pointer, self.shape = ordinal, pointer, shape
        self.dtype, self._owner = np.dtype(dtype), owner

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> DeviceArray:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("a view of a device's memory is contiguous")
        row = self.nbytes // max(len(self), 1)
        shape = max(stop - start, 0), *self.shape[1:]
        return DeviceArray(self.ordinal, self.pointer + start * row, shape, self.dtype, self._owner)


Buffer = Array | DeviceArray


@dataclass(frozen=True, slots=True)
class Top:
    """The best token of each row: [rows] each.

    Attributes:
        token: int64; the lowest of equals.
        lead: float32, in logits, over the runner-up; infinite where there is none.
        finite: whether every logit of the row is, also those of tokens that were not allowed.
    """

    token: NDArray[np.int64]
    lead: NDArray[np.float32]
    finite: NDArray[np.bool_]


class Device(ABC):
    """Memory that a backend's engines read and write.

    Attributes:
        sampler: the name of its `noisy_copies`, for the certificate.
        alignment: a KV cache's positions are a multiple of it.
    """

    sampler: str
    alignment: int = 1

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        """New memory, unwritten.

        Raises:
            MemoryError: there is not so much.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that can still be allocated, where the device says."""

    @abstractmethod
    def wait(self) -> None:
        """Until all is done that was enqueued."""

    @abstractmethod
    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy an array of this device onto one of its size."""

    @abstractmethod
    def fill(self, array: Buffer, value: float, start: int = 0, stop: int | None = None) -> None:
        """Write a value from position `start` of the last axis but one on, up to `stop` (exclusive)."""

    @abstractmethod
    def paste(self, source: Buffer, target: Buffer, start: int) -> None:
        """Write `source`, of this device or the host, into positions start, start + 1, ... of the target.

        Args:
            source: [rows, positions, hidden].
            target: [rows, more positions, hidden], of this device.
            start: the first position.
        """

    @abstractmethod
    def copy_rows(self, array: Buffer, moves: Sequence[tuple[int, int]], start: int, stop: int) -> None:
        """Copy positions of some rows to others.

        Args:
            array: [rows, heads, positions, size].
            moves: (source row, target row), carried out in this order.
            start: first position.
            stop: one past the last.
        """

    @abstractmethod
    def top(self, logits: Buffer, allowed: Sequence[Sequence[int]] | None) -> Top:
        """The best token of each row.

        Args:
            logits: float32 [rows, vocabulary]; may be overwritten.
            allowed: for each row the tokens that compete, at least one and none twice; all unless given.
        """

    @abstractmethod
    def noisy_copies(
        self,
        canvas: NDArray[np.float64],
        sigma: float,
        *,
        seed: int,
        stream: Stream,
        first: int,
        out: Buffer,
    ) -> None:
        """Write canvas + noise into `out`; see `noise.noisy_copies`."""


class Host(Device):
    """The processor's own memory: NumPy arrays."""

    sampler = SAMPLERS["cpu"]

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See `Device.empty`."""
        return np.empty(shape, dtype)

    def free_bytes(self) -> None:
        """Unknown: what the system can still give depends on what it can put aside."""

    def wait(self) -> None:
        """Nothing is enqueued."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """See `Device.copy`."""
        np.copyto(_host(target), _host(source))

    def fill(self, array: Buffer, value: float, start: int = 0, stop: int | None = None) -> None:
        """See `Device.fill`."""
        _host(array)[..., start:stop, :] = value

    def paste(self, source: Buffer, target: Buffer, start: int) -> None:
        """See `Device.paste`."""
        source = _host(source)
        _host(target)[:, start : start + source.shape[1]] = source

    def copy_rows(self, array: Buffer, moves: Sequence[tuple[int, int]], start: int, stop: int) -> None:
        """See `Device.copy_rows`."""
        array = _host(array)
        for source, target in moves:
            array[target, :, start:stop] = array[source, :, start:stop]

    def top(self, logits: Buffer, allowed: Sequence[Sequence[int]] | None) -> Top:
        """See `Device.top`."""
        logits = _host(logits)
        finite = np.logical_and.reduce(np.isfinite(logits), axis=1)
        if allowed is not None:
            logits = _masked(logits, allowed)
        rows = np.arange(len(logits))
        token = logits.argmax(axis=1)
        best = logits[rows, token]
        logits[rows, token] = -np.inf
        with np.errstate(invalid="ignore"):  # in rows that are not finite, whose lead nobody may use
            return Top(token, best - logits.max(axis=1), finite)

    def noisy_copies(
        self,
        canvas: NDArray[np.float64],
        sigma: float,
        *,
        seed: int,
        stream: Stream,
        first: int,
        out: Buffer,
    ) -> None:
        """See `Device.noisy_copies`."""
        noisy_copies(canvas, sigma, seed=seed, stream=stream, first=first, out=_host(out))


def gpu_number(device: str) -> int | None:
    """Which GPU a device's name means; None is the processor.

    Raises:
        InputError: it is no device's name.
    """
    if device == "cpu":
        return None
    if match := re.fullmatch(r"cuda:([0-9]{1,3})", device):
        return int(match[1])
    raise InputError(f"there is no device {device!r}; use cpu or cuda:N")


def _host(array: Buffer) -> Array:
    if isinstance(array, DeviceArray):
        raise TypeError("this array lies on a device, not in the host's memory")
    return array


def _masked(logits: NDArray[np.float32], allowed: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    masked = np.full_like(logits, -np.inf)
    for row, tokens in enumerate(allowed):
        masked[row, tokens] = logits[row, tokens]
    return masked
