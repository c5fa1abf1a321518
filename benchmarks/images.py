"""No-op jobs in an unpacked image, against the same jobs in the host's view, in one run on one warm node.

    python -m benchmarks.images [--jobs 100]

Needs bubblewrap and a static busybox (Debian: busybox-static), of which a small image is made; with skopeo
and docker-registry also by tag and by digest from a registry on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import Client, Server, Table, attached, running_server
from tidemill.server import home as homes
from tidemill.server import launch

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "integration"))

MOST_S = 0.030  # over the host's view
API = "api-version=2024-01-01"


def rounds(client: Client, environments: dict[str, str | None], count: int) -> dict[str, list[float]]:
    """Seconds from the PUT to the answer that the job has ended, one job of each kind after the other, so
    that all meet the same machine."""
    taken: dict[str, list[float]] = {kind: [] for kind in environments}
    for number in range(-2, count):  # two to warm up
        for index, (kind, environment) in enumerate(environments.items()):
            name = f"job-{index}-{number + 2}-{os.getpid()}"
            given = {"environmentId": environment} if environment else {}
            started = time.perf_counter()
            client.submit(name, "true", **given)
            done = client.wait(name)
            if done["status"] != "Completed":
                why = done["error"] or done["reason"]
                raise SystemExit(f"{kind}: job {number} is {done['status']}: {why}")
            if number >= 0:
                taken[kind].append(time.perf_counter() - started)
    return taken


def environment(client: Client, name: str, image: str) -> str:
    path = f"{client.server.workspace}/environments/{name}/versions/1?{API}"
    client.call("PUT", path, {"properties": {"image": image}})
    return f"azureml:{name}:1"


@contextmanager
def images(folder: Path) -> Iterator[dict[str, str]]:
    """Kind -> image."""
    from imagemaker import Layout, busybox, push, registry

    layout = Layout(folder / "layout")
    digest = layout.add([busybox("true")], config={"Env": ["PATH=/bin"]})
    found = {"image, OCI layout": f"oci:{layout.path}"}
    if not (shutil.which("skopeo") and shutil.which("docker-registry")):
        yield found
        return
    with registry(folder / "registry") as address:
        push(layout, "latest", f"{address}/small:1")
        by_tag = {"image, registry, tag": f"{address}/small:1"}
        yield {**found, "image, registry, digest": f"{address}/small@{digest}", **by_tag}


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks images")
    parser.add_argument("--jobs", type=int, default=100)
    count = parser.parse_args(argv).jobs
    if not (shutil.which("bwrap") and shutil.which("busybox")):
        raise SystemExit("images: needs bubblewrap and busybox (Debian: bubblewrap, busybox-static)")
    table = Table("Jobs in images", ("what", "median", "host view", "over it", "target", "met"))
    with (
        tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder,
        images(Path(folder)) as found,
        running_server() as server,
    ):
        client = Client(allow(server, folder))
        kinds: dict[str, str | None] = {"host view": None}
        for index, (kind, image) in enumerate(found.items()):
            kinds[kind] = environment(client, f"image{index}", image)
        taken = {kind: statistics.median(values) for kind, values in rounds(client, kinds, count).items()}
    host = taken.pop("host view")
    table.add("host view", f"{host * 1e3:.1f} ms", None, None, None, None)
    for kind, seconds in taken.items():
        over = seconds - host
        looked_up = "tag" in kind  # asks the registry each time, so that a new push is seen
        table.add(
            kind,
            f"{seconds * 1e3:.1f} ms",
            f"{host * 1e3:.1f} ms",
            f"{over * 1e3:+.1f} ms",
            None if looked_up else f"<= {MOST_S * 1e3:.0f} ms",
            None if looked_up else over <= MOST_S,
        )
    table.show()
    return table


def allow(server: Server, folder: str) -> Server:
    """The server, started again with `folder` as one that images may lie in."""
    launch.down(server.home)
    place = homes.prepare(server.home)
    config = json.loads(place.config.read_bytes())
    place.config.write_text(json.dumps({**config, "image_folders": [folder]}))
    launch.up(server.home, https_port=0, http_port=0, data_port=0, detach=True)
    return attached(server.home)


if __name__ == "__main__":
    main()
