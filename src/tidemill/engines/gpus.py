"""Which GPUs this host has: a port, so that tests can bring their own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol


class GpuInventory(Protocol):
    def ids(self) -> tuple[str, ...]:
        """What CUDA_VISIBLE_DEVICES takes: GPU UUIDs. Empty where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class FixedGpus:
    """A given list; `FixedGpus()` is a host without GPUs."""

    known: tuple[str, ...] = ()

    def ids(self) -> tuple[str, ...]:
        return self.known


class NvmlGpus:
    """Asks NVIDIA's driver through nvidia-ml-py. No package or no driver: no GPUs."""

    def ids(self) -> tuple[str, ...]:
        try:
            import pynvml  # pyright: ignore[reportMissingImports]
        except ImportError:
            return ()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return ()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
            return tuple(u.decode() if isinstance(u, bytes) else u for u in uuids)
        except pynvml.NVMLError:
            return ()
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
