"""Start: `python …/tidemill/serving/batch/main.py SPEC`, one on each node; the workers are started by it.

Loaded by its file, under a name of its own: the user's environment knows no `tidemill`, and must not find our
modules instead of its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "_tidemill_batch"


def load(here: str) -> None:
    """Make the package that lies in `here` importable as NAME."""
    spec = importlib.util.spec_from_file_location(
        NAME, os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    if spec is None or spec.loader is None:
        raise ImportError("The files that run batches are not in " + here)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


def main() -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    # Python puts the script's folder first: user code that imports a name we use, too, would get ours.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != here]
    load(here)
    part = "worker" if sys.argv[2:] else "node"
    return int(importlib.import_module(NAME + "." + part).main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
