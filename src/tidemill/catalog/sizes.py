"""VM sizes and their dated list prices: two small CSV files beside this module, read on first use.

The size `host` is this machine. It has no list price: what it costs is unknown until a price sheet for own
hardware is set (showback). A container group's size is what it asks for, `Container_CPU_MEMORY`
(`container_size`): it is in no list, and costs its share of a listed size, which is said with the price.
"""

from __future__ import annotations

import csv
import difflib
import math
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
_CONTAINER = re.compile(r"container_(\d+(?:\.\d{1,3})?)_(\d+(?:\.\d)?)")
CONTAINER_FAMILY = "Container"
PRICED_AS = "Standard_D2s_v3"  # whose share a container group costs
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
    cpu_milli: int = 0  # where it has no whole number of cores

    @property
    def vector(self) -> Vector:
        return Vector(self.cpu_milli or self.vcpus * 1000, self.memory, self.gpus)

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
        """Also a container group's."""
        folded = name.casefold()
        return self._sizes.get(folded) or _container(folded)

    def require(self, name: str) -> VmSize:
        """A listed one. Raises InvalidRequest naming sizes that exist and look like `name`."""
        size = self._sizes.get(name.casefold())
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
        container = _container(name.casefold())
        if container is not None:
            return self._share(container, region, kind)
        row = self._prices.get((name.casefold(), normal_region(region)))
        if row is None or not row[kind]:
            return None
        return Price(float(row[kind]), row["date"], row[_BASIS[kind]])

    def _share(self, container: VmSize, region: str, kind: str) -> Price | None:
        """What the larger of its shares of cores and memory costs."""
        whole, listed = self.require(PRICED_AS), self.price(PRICED_AS, region, kind=kind)
        if listed is None:
            return None
        share = max(container.vector.cpu_milli / whole.vector.cpu_milli, container.memory / whole.memory)
        return Price(
            round(listed.usd_hour * share, 6),
            listed.as_of,
            f"assumed: its share of {PRICED_AS}, {listed.basis}",
        )

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


def container_size(cpu_milli: int, memory: int) -> VmSize:
    """Of a container group that asks for so much; memory in tenths of a GiB."""
    return VmSize(
        f"Container_{cpu_milli / 1000:g}_{memory / GIB:.1f}",
        max(1, math.ceil(cpu_milli / 1000)),
        memory,
        family=CONTAINER_FAMILY,
        series=CONTAINER_FAMILY,
        cpu_milli=cpu_milli,
    )


def _container(folded: str) -> VmSize | None:
    found = _CONTAINER.fullmatch(folded)
    if found is None:
        return None
    return container_size(round(float(found[1]) * 1000), round(float(found[2]) * 10) * GIB // 10)


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
