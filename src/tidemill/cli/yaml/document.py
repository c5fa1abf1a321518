"""A YAML file as plain data plus the place of every key and value in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.cli.errors import USAGE, CliError

Trail = tuple[str | int, ...]  # the way from the root: ("inputs", "data", "path")
MAX_NODES = 100_000  # aliases can make a small file very large


@dataclass(frozen=True, slots=True)
class Place:
    """`line` and `column` count from 1; line 0: not from the file but from the option named by `file`."""

    file: str
    line: int
    column: int
    written: str = ""  # a scalar as it stands in the file
    start: int = 0  # offsets of the value in the source, characters
    end: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    place: Place
    message: str

    def __str__(self) -> str:
        place, message = str(self.place), self.message
        if not self.place.line:  # an option: its name is said once
            message = message.removeprefix(f"{place.removeprefix('--').replace('-', '_')}: ")
        return f"{place}: {message}" if place else message


class YamlError(CliError):
    """All that is wrong with a file, one line each, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.place.line or 10**9, p.place.column))
        details = [{"code": "InvalidYaml", "message": p.message, "target": str(p.place)} for p in ordered]
        super().__init__("\n".join(map(str, ordered)), USAGE, "InvalidYaml", details=details)
        self.problems = ordered


@dataclass(slots=True)
class Document:
    """`values` and `keys` map a trail to where that value, and the key that names it, stand."""

    file: str
    folder: Path
    source: str
    data: Any
    values: dict[Trail, Place] = field(default_factory=dict)
    keys: dict[Trail, Place] = field(default_factory=dict)

    def place(self, trail: Trail) -> Place:
        """Where the value at `trail` is, else the nearest thing around it."""
        while trail not in self.values and trail:
            trail = trail[:-1]
        return self.values.get(trail) or Place(self.file, 1, 1)

    def key_place(self, trail: Trail) -> Place:
        return self.keys.get(trail) or self.place(trail)

    def place_in(self, trail: Trail, text: str) -> Place:
        """Where `text` first stands inside the scalar at `trail`."""
        place = self.place(trail)
        at = self.source.find(text, place.start, place.end) if place.line else -1
        if at < 0:
            return place
        return Place(place.file, self.source.count("\n", 0, at) + 1, at - self.source.rfind("\n", 0, at))


def read_file(path: Path, shown: str | None = None) -> Document:
    """Reads one YAML document. Raises CliError for an unreadable file, YamlError for what is no YAML."""
    shown = shown or str(path)
    try:
        source = path.read_text("utf-8-sig")
    except FileNotFoundError:
        near = _near_files(path)
        raise CliError(f"There is no file {shown}.{near}", USAGE, "FileNotFound") from None
    except IsADirectoryError:
        raise CliError(f"{shown} is a folder; name the YAML file in it.", USAGE, "FileNotFound") from None
    except UnicodeDecodeError as error:
        raise CliError(f"{shown} is not UTF-8 text (byte {error.start}).", USAGE, "InvalidYaml") from None
    return read_text(source, shown, path.absolute().parent)


def read_text(source: str, file: str, folder: Path) -> Document:
    """YAML text -> Document. Raises YamlError."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loader = base(source)
        try:
            root = loader.get_single_node()
            document = Document(file, folder, source, None)
            if root is not None:
                document.data = _Builder(document, loader).build(root, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        text = ", ".join(part for part in (error.context, error.problem) if part)
        colon = "mapping values are not allowed" in text
        hint = " A text with ': ' in it needs quotes, or a block that starts with |- or >-." if colon else ""
        raise YamlError([Problem(place, f"this is no YAML: {text}.{hint}")]) from None
    except yaml.YAMLError as error:
        raise YamlError([Problem(Place(file, 1, 1), f"this is no YAML: {error}.")]) from None
    return document


class _Builder:
    def __init__(self, document: Document, loader: Any) -> None:
        self.document = document
        self.loader = loader
        self.count = 0

    def build(self, node: Any, trail: Trail) -> Any:
        import yaml

        self.count += 1
        place = self._place(node)
        if self.count > MAX_NODES or len(trail) > 100:
            raise YamlError([Problem(place, "the file unfolds to too many values (aliases of aliases).")])
        self.document.values[trail] = place
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, trail)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*trail, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except yaml.constructor.ConstructorError as error:
            raise YamlError([Problem(place, f"{error.problem}; use plain values.")]) from None
        except ValueError as error:
            raise YamlError([Problem(place, f"{node.value!r} is not a value ({error}); quote it.")]) from None

    def _mapping(self, node: Any, trail: Trail) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        own: set[str] = set()
        pairs = sorted(node.value, key=lambda pair: pair[0].tag != "tag:yaml.org,2002:merge")
        for key_node, value_node in pairs:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    if not isinstance(source, yaml.MappingNode):
                        raise YamlError([Problem(self._place(source), "'<<' takes a mapping.")])
                    result.update(self._mapping(source, trail))
                continue
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError([Problem(place, "a key must be plain text.")])
            name = key_node.value
            if name in own:
                raise YamlError([Problem(place, f"the key '{name}' stands here twice.")])
            own.add(name)
            self.document.keys[(*trail, name)] = place
            result[name] = self.build(value_node, (*trail, name))
        return result

    def _place(self, node: Any) -> Place:
        start, end = node.start_mark, node.end_mark
        written = node.value if isinstance(node.value, str) else ""
        return Place(self.document.file, start.line + 1, start.column + 1, written, start.index, end.index)


def _near_files(path: Path) -> str:
    from tidemill.cli.errors import did_you_mean

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.name, names)
