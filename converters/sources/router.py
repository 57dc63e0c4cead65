"""The file of sentence-transformers' `Router`, which sends a text to one of several lists of modules.

Does not import torch.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InvalidModel
from converters.sources.configuration import check_keys, read_json

ROUTERS = ("Router", "Asym")
"""Names of the module; the second one is its old name."""

_FILES = ("router_config.json", "config.json")
_PARAMETERS = frozenset("default_route allow_empty_key route_mappings".split())


@dataclass(frozen=True)
class Routing:
    """The content of the file.

    Attributes:
        types: Class of each module, by its folder.
        routes: Folders of each route's modules, in their order.
        default: The route of texts for which there is no other; None if the library fails on them.
        mappings: Routes by task and modality.
    """

    types: dict[str, str]
    routes: dict[str, list[str]]
    default: str | None
    mappings: dict[Any, str]

    def route_of_text(self) -> str | None:
        """Return the route of a text without an input type; None if the library fails on it.

        Source: `Router._resolve_route_name`.
        """
        for key in ((None, "text"), (None, None)):
            if key in self.mappings:
                return self.mappings[key]
        return "text" if "text" in self.routes else self.default


def read(home: Path) -> Routing:
    """Read the file of a `Router` in its directory.

    Raises:
        InvalidModel: The file is missing or broken, or names folders elsewhere.
    """
    path = next((home / name for name in _FILES if (home / name).is_file()), None)
    if path is None:
        raise InvalidModel(f"the Router has no {_FILES[0]}")
    data = read_json(path, dict)
    types, routes, parameters = (data.get(key) for key in ("types", "structure", "parameters"))
    check_keys(f"{path.name}: parameters", parameters, _PARAMETERS)
    if not _is_sound(types, routes, parameters):
        raise InvalidModel(f"{path.name} is broken: it must hold types, structure and parameters")
    for folder in types:
        if not folder or Path(folder).name != folder or folder == "..":
            raise InvalidModel(f"{path.name} names a path outside of the Router: {folder[:100]!r}")
    mappings = _mappings(path.name, parameters.get("route_mappings") or {})
    default = parameters.get("default_route")
    if not {*mappings.values(), default} - {None} <= routes.keys():
        raise InvalidModel(f"{path.name} names a route that it does not have")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes))
    return Routing(types, routes, default, mappings)


def _is_sound(types: Any, routes: Any, parameters: Any) -> bool:  # noqa: ANN401 - JSON of a model's file
    return (
        isinstance(types, dict)
        and all(isinstance(kind, str) for kind in types.values())
        and isinstance(routes, dict)
        and bool(routes)
        and all(isinstance(folders, list) and folders for folders in routes.values())
        and all(isinstance(name, str) and name in types for folders in routes.values() for name in folders)
        and isinstance(parameters, dict)
        and isinstance(parameters.get("default_route"), str | None)
        and isinstance(parameters.get("route_mappings"), dict | None)
    )


def _mappings(name: str, given: dict[str, Any]) -> dict[Any, str]:
    """Return the routes by task and modality; in the file, the pairs are written as Python does."""
    found: dict[Any, str] = {}
    for key, route in given.items():
        try:
            pair = ast.literal_eval(key)
            task, modality = pair
            found[task, tuple(sorted(modality)) if isinstance(modality, tuple) else modality] = route
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise InvalidModel(f"{name} is broken: {key[:100]!r} is no pair of task and modality") from error
    if not all(isinstance(route, str) for route in found.values()):
        raise InvalidModel(f"{name} is broken: route_mappings must name routes")
    return found
