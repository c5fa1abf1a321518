"""VM sizes and their dated list prices: two small CSV files beside this module, read on first use.

The size `host` is this machine. It has no list price: what it costs is unknown until a price sheet for own
hardware is set (showback).
"""

from __future__ import annotations

import csv
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Protocol

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Vector

HOST = "host"
GIB = 1024**3
PRICE_KINDS = ("payg", "spot", "ri_1y", "ri_3y", "windows")
# Microsoft's naming rule: lower-case letters after the vCPU count, "s" = premium storage; DS is the old form.
_PREMIUM = re.compile(r"^Standard_(?:DS\d|[A-Z]+\d+[a-z]*s)")
_BASIS = {
    "payg": "payg_basis",
    "spot": "spot_basis",
    "ri_1y": "ri_basis",
    "ri_3y": "ri_basis",
    "windows": "windows_basis",
}


class Host(Protocol):
    """What `engines.base.HostCapacity` has."""

    @property
    def total(self) -> Vector: ...


@dataclass(frozen=True, slots=True)
class VmSize:
    """One size. `memory` in bytes; `gpu_memory_gib` is per GPU; a model like "A10 (1/6)" is a part of one."""

    name: str
    vcpus: int
    memory: int
    gpus: int = 0
    gpu_model: str = ""
    gpu_memory_gib: float = 0.0
    family: str = ""  # Azure's quota family, else the series
    series: str = ""
    temp_disk_gib: int = 0
    local_nvme_gb: int = 0
    premium_io: bool = False
    retired: bool = False

    @property
    def vector(self) -> Vector:
        return Vector(self.vcpus * 1000, self.memory, self.gpus)

    @property
    def disk(self) -> int:
        """Bytes of local disk, temporary and NVMe; 0 where the size has none: its disk is a remote one, of
        whatever size."""
        return self.temp_disk_gib * GIB + self.local_nvme_gb * 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per hour. `as_of` is the date of the sheet (YYYY-MM-DD or YYYY); `basis` says whether the
    figure is a list price, follows from an observed ratio, or is assumed."""

    usd_hour: float
    as_of: str
    basis: str


class SizeCatalog:
    """Sizes by name (case-insensitive) and prices by (size, region)."""

    def __init__(self, host: Host | None = None) -> None:
        self._host = None if host is None else _host_size(host.total)

    @classmethod
    def load(cls, host: Host | None = None) -> SizeCatalog:
        """Cheap: the files are read on first use. Without `host` there is no size named "host"."""
        return cls(host)

    def get(self, name: str) -> VmSize | None:
        return self._sizes.get(name.casefold())

    def require(self, name: str) -> VmSize:
        """Raises InvalidRequest naming sizes that exist and look like `name`."""
        size = self.get(name)
        if size is None:
            raise InvalidRequest(self._unknown(name), "InvalidVmSize", "vmSize")
        return size

    def names(self) -> list[str]:
        return [size.name for size in self._sizes.values()]

    def list(self, region: str | None = None) -> list[VmSize]:
        """Sizes with a price in that region, `host` first; all of them when the region has no prices."""
        key = normal_region(region or "")
        offered = {name for name, where in self._prices if where == key}
        return [
            size
            for folded, size in self._sizes.items()
            if not offered or size.name == HOST or folded in offered
        ]

    def price(self, name: str, region: str, at: int | None = None, kind: str = "payg") -> Price | None:
        """Price of a size in a region; None when the sheet has none there (always for `host`).

        `at` (microseconds) chooses the sheet in force then. There is one sheet today, so it only has a say
        once there are more; `Price.as_of` tells which one answered. `kind` is one of PRICE_KINDS.
        """
        del at
        if kind not in _BASIS:
            raise ValueError(f"price kind {kind!r}: one of {', '.join(PRICE_KINDS)}")
        row = self._prices.get((name.casefold(), normal_region(region)))
        if row is None or not row[kind]:
            return None
        return Price(float(row[kind]), row["date"], row[_BASIS[kind]])

    @cached_property
    def _sizes(self) -> dict[str, VmSize]:
        sizes = {} if self._host is None else {HOST: self._host}
        for row in _rows("vm_sizes.csv"):
            sizes[row["name"].casefold()] = _size(row)
        return sizes

    @cached_property
    def _prices(self) -> dict[tuple[str, str], dict[str, str]]:
        return {(row["name"].casefold(), row["region"]): _interned(row) for row in _rows("vm_prices.csv")}

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name.casefold(), self._sizes, 3, 0.6)
        names = [self._sizes[folded].name for folded in near]
        hint = (
            f"Did you mean {' or '.join(names)}?"
            if names
            else "Small ones are Standard_DS3_v2 and Standard_D2s_v3."
        )
        local = " The size 'host' is this whole machine." if self._host else ""
        listed = f"`tidemill compute list-sizes` lists all {len(self._sizes)}."
        return f"VM size {name!r} does not exist. {hint}{local} {listed}"


def normal_region(region: str) -> str:
    """ "West Europe" and "westeurope" are one region."""
    return region.replace(" ", "").casefold()


def _host_size(total: Vector) -> VmSize:
    return VmSize(HOST, max(1, total.cpu_milli // 1000), total.memory, total.gpus, family=HOST, series=HOST)


def _size(row: dict[str, str]) -> VmSize:
    return VmSize(
        name=row["name"],
        vcpus=int(row["vcpus"]),
        memory=int(float(row["memory_gib"]) * GIB),
        gpus=int(row["gpus"]),
        gpu_model=row["gpu_model"],
        gpu_memory_gib=float(row["gpu_memory_gib"] or 0),
        family=row["quota_family"] or row["series"],
        series=row["series"],
        temp_disk_gib=int(float(row["temp_disk_gib"] or 0)),
        local_nvme_gb=int(float(row["local_nvme_gb"] or 0)),
        premium_io=_PREMIUM.match(row["name"]) is not None,
        retired=row["retired"] == "1",
    )


def _interned(row: dict[str, str]) -> dict[str, str]:
    """Bases and regions repeat hundreds of times: one string object each."""
    return {key: sys.intern(value) for key, value in row.items()}


def _rows(file: str) -> Iterator[dict[str, str]]:
    source = resources.files("tidemill.catalog").joinpath("data", file)
    with source.open("r", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)
