"""YAML that others wrote, read without aliases: aliases of aliases make a small file very large."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        loader: Any = self  # PyYAML has no types
        if loader.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), and those are not taken here")
        return super().compose_node(parent, index)


def load(raw: bytes) -> Any:
    """Raises ValueError with the reason."""
    try:
        return yaml.load(raw, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
