"""The process that makes packages: an order on standard input, lines of JSON on standard output.

{"say": …} as it goes on; at last {"done": {…}}, {"refused": sentence} or {"full": true}. Whoever asked for it
kills it to be rid of it, and removes the folders.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import asdict

from tidemill.packaging import wheelhouse
from tidemill.packaging.assembling import Assembled, assemble, order_of
from tidemill.packaging.pythons import Unsuitable

WHEELHOUSE = "wheelhouse"


def main() -> int:
    os.nice(5)
    given = json.load(sys.stdin)
    layout, work, form = given.pop("layout"), given.pop("work"), given.pop("format")
    order = order_of(given)

    def say(line: str) -> None:
        _tell({"say": line})

    try:
        made = (
            wheelhouse.make(order, layout, say) if form == WHEELHOUSE else assemble(order, layout, work, say)
        )
    except Unsuitable as error:
        _tell({"refused": str(error)})
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _tell({"full": True})
            return 1
        raise
    _tell({"done": _word(made)})
    return 0


def _word(made: Assembled) -> dict[str, object]:
    return {
        "digest": made.digest,
        "size": made.size,
        "layers": {name: asdict(layer) for name, layer in made.layers.items()},
        "notes": list(made.notes),
    }


def _tell(word: dict[str, object]) -> None:
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    sys.exit(main())
