"""Makes Tidemill's own size and price tables from the gathered facts.

    python scripts/build_size_catalog.py ../shared/data/azure_vm_sizes.csv src/tidemill/catalog/data

Two files, because their licences differ (see catalog/data/README.md): vm_sizes.csv (one row per size) and
vm_prices.csv (one row per size and region, US dollars per hour).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

SIZE_COLUMNS = (
    "name", "series", "quota_family", "vcpus", "memory_gib", "gpus", "gpu_model", "gpu_memory_gib",
    "temp_disk_gib", "local_nvme_gb", "retired",
)  # fmt: skip
PRICE_COLUMNS = (
    "name", "region", "date", "payg", "payg_basis", "spot", "spot_basis", "ri_1y", "ri_3y", "ri_basis",
    "windows", "windows_basis",
)  # fmt: skip
LIST_PRICE = "list price "


def size_row(row: dict[str, str]) -> dict[str, str]:
    return {
        "name": row["size"],
        "series": row["family"],
        "quota_family": row["quota_family"],
        "vcpus": row["vcpus"],
        "memory_gib": row["memory_gib"].removesuffix(".0"),
        "gpus": row["gpus"],
        "gpu_model": row["gpu_model"],
        "gpu_memory_gib": row["gpu_memory_gib"].removesuffix(".0"),
        "temp_disk_gib": row["temp_disk_gib"],
        "local_nvme_gb": row["local_nvme_gb"],
        "retired": "" if row["sc_status"] == "ACTIVE" else "1",
    }


def price_row(row: dict[str, str]) -> dict[str, str]:
    basis = row["payg_basis"]
    dated = basis.startswith(LIST_PRICE)
    return {
        "name": row["size"],
        "region": row["region"],
        "date": basis.removeprefix(LIST_PRICE) if dated else "2022",
        "payg": row["payg_usd_hour"],
        "payg_basis": "list price" if dated else basis,
        "spot": row["spot_usd_hour"],
        "spot_basis": row["spot_basis"] if row["spot_usd_hour"] else "",
        "ri_1y": row["ri_1y_usd_hour"],
        "ri_3y": row["ri_3y_usd_hour"],
        "ri_basis": row["ri_basis"],
        "windows": row["windows_payg_usd_hour"],
        "windows_basis": row["windows_basis"],
    }


def write(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(source: Path, target: Path) -> None:
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sizes = {row["size"]: size_row(row) for row in rows}
    target.mkdir(parents=True, exist_ok=True)
    write(target / "vm_sizes.csv", SIZE_COLUMNS, [sizes[name] for name in sorted(sizes)])
    write(target / "vm_prices.csv", PRICE_COLUMNS, [price_row(row) for row in rows])
    print(f"{len(sizes)} sizes, {len(rows)} prices -> {target}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: build_size_catalog.py azure_vm_sizes.csv TARGET_DIRECTORY")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
