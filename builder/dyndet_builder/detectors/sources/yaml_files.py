"""Reads YAML that others wrote: plain data, of bounded size and depth, each key once, and no aliases that multiply."""

from __future__ import annotations

from typing import Any

import yaml

from dynamicdet.text import printable

_DEEPEST = 20
_MOST = 50_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases and dates, and with a bound on depth and number of values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value."""
        if self.check_event(yaml.events.AliasEvent):
            raise ValueError("it has an alias")
        self._depth += 1
        self._count += 1
        if self._depth > _DEEPEST or self._count > _MOST:
            raise ValueError(f"it has more than {_MOST:,} values, or is nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are all different."""
        found = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            raise ValueError("a key occurs twice")
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def yaml_of(content: bytes) -> Any:
    """YAML, or JSON, as plain data. Raises ValueError, in one line, for anything else."""
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"it is not YAML{place}: {printable(error.problem, limit=100)}") from error
    except (yaml.YAMLError, RecursionError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is not YAML: {printable(error, limit=100)}") from error
