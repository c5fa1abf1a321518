"""Which GPUs this host has: a port, so that tests can bring their own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class GpuInventory(Protocol):
    def ids(self) -> tuple[str, ...]:
        """What CUDA_VISIBLE_DEVICES takes: GPU UUIDs. Empty where there is none."""
        ...

    def devices(self, ids: Sequence[str]) -> list[str]:
        """The device files of these GPUs: a job is shown no others."""
        ...


@dataclass(frozen=True, slots=True)
class FixedGpus:
    """A given list; `FixedGpus()` is a host without GPUs."""

    known: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # one for each, in the same order

    def ids(self) -> tuple[str, ...]:
        return self.known

    def devices(self, ids: Sequence[str]) -> list[str]:
        return [file for known, file in zip(self.known, self.files, strict=False) if known in ids]


class NvmlGpus:
    """Asks NVIDIA's driver through nvidia-ml-py. No package or no driver: no GPUs."""

    def __init__(self) -> None:
        self._minors: dict[str, int] | None = None  # by UUID, asked for once: GPUs do not come and go

    def ids(self) -> tuple[str, ...]:
        if self._minors is None:
            self._minors = _ask_nvml()
        return tuple(self._minors)

    def devices(self, ids: Sequence[str]) -> list[str]:
        known = set(self.ids())
        return [f"/dev/nvidia{self._minors[gpu]}" for gpu in ids if self._minors and gpu in known]


def _ask_nvml() -> dict[str, int]:
    """UUID -> N of its /dev/nvidiaN."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        found: dict[str, int] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            name = uuid.decode() if isinstance(uuid, bytes) else uuid
            found[name] = pynvml.nvmlDeviceGetMinorNumber(handle)
        return found
    except pynvml.NVMLError:
        return {}
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
