from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tidemill.catalog.sizes import GIB, PRICE_KINDS, PRICED_AS, Price, SizeCatalog, container_size
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Vector

SOURCE = Path(__file__).parents[3].parent / "shared" / "data" / "azure_vm_sizes.csv"


@dataclass(frozen=True)
class FakeHost:
    total: Vector


@pytest.fixture(scope="module")
def catalog() -> SizeCatalog:
    return SizeCatalog.load(FakeHost(Vector(2000, 8 * GIB, 1)))


def test_names_are_case_insensitive(catalog: SizeCatalog):
    size = catalog.get("STANDARD_ds3_V2")
    assert size is not None
    assert (size.name, size.vcpus, size.memory, size.family) == (
        "Standard_DS3_v2",
        4,
        14 * GIB,
        "standardDSv2Family",
    )
    assert size.vector == Vector(4000, 14 * GIB, 0)


def test_prices_are_dated_and_say_their_basis(catalog: SizeCatalog):
    assert catalog.price("standard_ds3_v2", "eastus", 0) == Price(0.293, "2026-06-18", "list price")
    spot = catalog.price("Standard_DS3_v2", "West Europe", kind="spot")
    assert spot is not None
    assert "assumed" in spot.basis
    retired = catalog.price("Standard_NC6", "eastus")
    assert retired is not None
    assert (retired.as_of, retired.basis) == ("2022", "historic (retired size, c.2022)")
    assert catalog.price("Standard_NC6", "westeurope") is None
    with pytest.raises(ValueError, match="price kind"):
        catalog.price("Standard_NC6", "eastus", kind="free")


def test_host_is_this_machine_without_a_price(catalog: SizeCatalog):
    size = catalog.get("Host")
    assert size is not None
    assert size.vector == Vector(2000, 8 * GIB, 1)
    assert catalog.price("host", "eastus") is None
    assert catalog.list("eastus")[0].name == "host"
    assert SizeCatalog.load().get("host") is None


@pytest.mark.parametrize(
    ("asked", "hint"), [("Standard_DS3v2", "Standard_DS3_v2"), ("STANDARD_NC6S_V4", "Standard_NC6s_v3")]
)
def test_unknown_size_is_refused_with_names_that_exist(catalog: SizeCatalog, asked: str, hint: str):
    with pytest.raises(InvalidRequest) as error:
        catalog.require(asked)
    assert repr(asked) in error.value.message
    assert hint in error.value.message


@pytest.mark.parametrize(
    ("milli", "memory", "name"),
    [
        (1000, GIB * 3 // 2, "Container_1_1.5"),
        (250, GIB // 2, "Container_0.25_0.5"),
        (64000, 256 * GIB, "Container_64_256.0"),
    ],
)
def test_a_container_group_has_just_the_size_it_asks_for(
    catalog: SizeCatalog, milli: int, memory: int, name: str
):
    size = container_size(milli, memory)
    assert size == catalog.get(name)
    assert (size.name, size.vector.cpu_milli, size.vector.memory, size.vector.gpus) == (
        name,
        milli,
        memory,
        0,
    )
    assert name not in catalog.names()


@pytest.mark.parametrize("name", ["Container_1_1.5", "container_0_0"])
def test_nobody_else_names_a_container_groups_size(catalog: SizeCatalog, name: str):
    with pytest.raises(InvalidRequest, match="does not exist"):
        catalog.require(name)


def test_a_container_group_costs_its_larger_share_of_a_listed_size(catalog: SizeCatalog):
    listed = catalog.price(PRICED_AS, "westeurope")
    for name, share in (("Container_1_1.5", 0.5), ("Container_0.5_8.0", 1.0), ("Container_2_8.0", 1.0)):
        price = catalog.price(name, "West Europe")
        assert price is not None
        assert listed is not None
        assert price.usd_hour == pytest.approx(listed.usd_hour * share)
        assert price.basis.startswith("assumed")
    assert catalog.price("Container_1_1.5", "atlantis") is None


def test_list_is_what_the_region_offers(catalog: SizeCatalog):
    everywhere, here = catalog.list(), catalog.list("southeastasia")
    assert len(everywhere) > len(here) > 100
    assert {size.name for size in everywhere} - {size.name for size in here}
    assert catalog.list("atlantis") == everywhere


@pytest.mark.parametrize(
    ("name", "premium"),
    [
        ("Standard_DS1_v2", True),
        ("Standard_D2_v3", False),
        ("Standard_NC4as_T4_v3", True),
        ("Standard_NC24r", False),
    ],
)
def test_premium_io_follows_the_naming_rule(catalog: SizeCatalog, name: str, premium: bool):
    assert catalog.require(name).premium_io is premium


def test_table_equals_its_source(catalog: SizeCatalog):
    if not SOURCE.exists():
        pytest.skip(f"the gathered facts are not beside the project: {SOURCE}")
    with SOURCE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = dict(
        zip(
            PRICE_KINDS,
            ("payg_usd_hour", "spot_usd_hour", "ri_1y_usd_hour", "ri_3y_usd_hour", "windows_payg_usd_hour"),
            strict=True,
        )
    )
    for row in rows:
        size = catalog.require(row["size"])
        assert (size.vcpus, size.memory, size.gpus) == (
            int(row["vcpus"]),
            int(float(row["memory_gib"]) * GIB),
            int(row["gpus"]),
        )
        for kind, column in columns.items():
            price = catalog.price(row["size"], row["region"], kind=kind)
            assert (price.usd_hour if price else None) == (float(row[column]) if row[column] else None)
    assert len({row["size"] for row in rows}) + 1 == len(catalog.names())


def test_loading_reads_nothing_until_asked():
    code = (
        "import sys, tidemill.catalog.sizes as s, tidemill.catalog.curated as c\n"
        "k = s.SizeCatalog.load(); q = c.CuratedCatalog()\n"
        "assert not vars(q) and not {'_sizes', '_prices'} & set(vars(k))\n"
        "assert not {'tomllib', 'yaml', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
