"""YAML that refuses a name given twice (plain YAML silently keeps the last, and half a fleet disappears), and that
remembers the line of every name, for messages."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from potluck.planner.fields import FieldError
from potluck.planner.place import Table


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise FieldError(f"line {line}: {key.value!r} is given twice; give it once, or another name")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_table(self, node: yaml.MappingNode) -> Iterator[Table]:
        # In two steps, as PyYAML has it, so that a table may contain itself.
        table = Table()
        yield table
        table.update(self.construct_mapping(node))
        table.lines.update({self.construct_object(key): key.start_mark.line + 1 for key, _ in node.value})


_Strict.add_constructor("tag:yaml.org,2002:map", _Strict.construct_table)


def read_yaml(text: str) -> object:
    """The data of a fleet or plan file.

    Raises:
        FieldError: not valid YAML, or a name given twice in one table; one line with the place.
    """
    loader = None
    try:
        loader = _Strict(text)
        data: object = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise FieldError(f"{place}not valid YAML: {error.problem}") from error
    except FieldError:
        raise
    # PyYAML lets impossible dates and overlong numbers through as a plain ValueError.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FieldError(f"not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()
    return data
