"""The calls over HTTP: the path of each call, and its request and answer in JSON."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from inference_store.errors import Invalid
from inference_store.http_infer import parameters_as_json
from inference_store.json_body import read_json
from inference_store.protocol import METHODS, Message

_MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
_SHARED = r"/v2/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<region>[^/]+))?"
INFER_PATH = re.compile(_MODEL + "/infer")

Body = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """One path of the protocol.

    Attributes:
        verbs: HTTP methods of the path.
        path: Pattern of the path.
        method: Method of gRPC.
        fill: Sets the request's fields from the parts of the path and the body.
        render: Returns the answer as JSON; None for an empty body.
    """

    verbs: tuple[str, ...]
    path: re.Pattern[str]
    method: str
    fill: Callable[[Message, dict[str, str], Body], None]
    render: Callable[[Message], Any]


@dataclass(frozen=True)
class Call:
    """A call to gRPC's method `method`, made from an HTTP request."""

    method: str
    request: Message
    render: Callable[[Message], Any]


class HttpRefusal(Exception):
    """The request is answered with this status and text; `closes` says that the connection then ends."""

    def __init__(self, status: int, text: str, *, closes: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.closes = closes


def no_such_path(status: int) -> HttpRefusal:
    """Return the refusal of what is no call of the protocol: 404, or 405 if another verb would be one."""
    return HttpRefusal(status, HTTPStatus(status).phrase)


def find_call(verb: str, path: str, body: bytes) -> Call:
    """Return the call of a request.

    Raises:
        HttpRefusal: The request is no call of the protocol.
        Invalid: The body cannot be read.
    """
    status = 404
    for route in _ROUTES:
        match = route.path.fullmatch(path)
        if match is None:
            continue
        if verb not in route.verbs:
            status = 405
            continue
        parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
        method = route.method.format(kind=parts.get("kind", "").title())
        request = METHODS[method].request()
        try:
            content = read_json(body) if body.strip() else {}
            route.fill(request, parts, content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Invalid(f"the request cannot be read: {error}") from error
        return Call(method, request, route.render)
    raise no_such_path(status)


def as_json(message: Message) -> Any:  # noqa: ANN401 - JSON
    """Return a message as Triton writes it: without unset messages, integers as numbers, enums as names."""
    content: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            valued = field.message_type.fields_by_name["value"]
            content[field.name] = {str(name): _plain(valued, value[name]) for name in sorted(value)}
        elif field.is_repeated:
            content[field.name] = [_plain(field, element) for element in value]
        else:
            content[field.name] = _plain(field, value)
    return content


def _plain(field: Message, value: Any) -> Any:  # noqa: ANN401 - JSON
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _nothing(_request: Message, _parts: dict[str, str], _body: Body) -> None:
    """Do nothing, as the request has no fields to set."""


def _name(request: Message, parts: dict[str, str], _body: Body) -> None:
    request.name = parts.get("name", "")
    request.version = parts.get("version", "")


def _region(request: Message, parts: dict[str, str], _body: Body) -> None:
    request.name = parts.get("region", "")


def _index(request: Message, _parts: dict[str, str], body: Body) -> None:
    request.ready = bool(body.get("ready", False))


def _repository(request: Message, parts: dict[str, str], body: Body) -> None:
    request.model_name = parts["name"]
    for name, value in body.get("parameters", {}).items():
        parameter = request.parameters[name]
        if name.startswith("file:"):
            parameter.bytes_param = base64.b64decode(value, validate=True)
        elif isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value


def _trace(request: Message, parts: dict[str, str], body: Body) -> None:
    request.model_name = parts.get("name", "")
    for name, value in body.items():
        values = [] if value is None else value if isinstance(value, list) else [value]
        request.settings[name].value.extend(str(element) for element in values)


def _log(request: Message, _parts: dict[str, str], body: Body) -> None:
    for name, value in body.items():
        setting = request.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int):
            setting.uint32_param = value
        else:
            setting.string_param = value


def _empty(_answer: Message) -> None:
    return None


def _yes_or_no(answer: Message) -> None:
    (field,) = answer.DESCRIPTOR.fields
    if not getattr(answer, field.name):
        raise HttpRefusal(400, "not ready")


def _entries(answer: Message) -> Any:  # noqa: ANN401 - JSON
    return [{name: value for name, value in as_json(model).items() if value} for model in answer.models]


def _config(answer: Message) -> Any:  # noqa: ANN401 - JSON
    return as_json(answer.config)


def _regions(answer: Message) -> Any:  # noqa: ANN401 - JSON
    return [as_json(answer.regions[name]) for name in sorted(answer.regions)]


def _traced(answer: Message) -> Any:  # noqa: ANN401 - JSON
    values = {name: list(setting.value) for name, setting in sorted(answer.settings.items())}
    return {name: value if name == "trace_level" else "".join(value) for name, value in values.items()}


def _logged(answer: Message) -> Any:  # noqa: ANN401 - JSON
    return parameters_as_json(answer.settings)


def _route(verbs: str, path: str, method: str, fill: Any, render: Any) -> Route:  # noqa: ANN401 - as Route
    return Route(tuple(verbs.split()), re.compile(path), method, fill, render)


_ROUTES = (
    _route("GET", "/v2/?", "ServerMetadata", _nothing, as_json),
    _route("GET", "/v2/health/live", "ServerLive", _nothing, _yes_or_no),
    _route("GET", "/v2/health/ready", "ServerReady", _nothing, _yes_or_no),
    _route("GET", "/v2/models/stats", "ModelStatistics", _nothing, as_json),
    _route("GET", _MODEL, "ModelMetadata", _name, as_json),
    _route("GET", f"{_MODEL}/ready", "ModelReady", _name, _yes_or_no),
    _route("GET", f"{_MODEL}/config", "ModelConfig", _name, _config),
    _route("GET", f"{_MODEL}/stats", "ModelStatistics", _name, as_json),
    _route("POST", "/v2/repository/index", "RepositoryIndex", _index, _entries),
    _route("POST", "/v2/repository/models/(?P<name>[^/]+)/load", "RepositoryModelLoad", _repository, _empty),
    _route(
        "POST", "/v2/repository/models/(?P<name>[^/]+)/unload", "RepositoryModelUnload", _repository, _empty
    ),
    _route("GET", f"{_SHARED}/status", "{kind}SharedMemoryStatus", _region, _regions),
    _route("POST", f"{_SHARED}/register", "{kind}SharedMemoryRegister", _region, _empty),
    _route("POST", f"{_SHARED}/unregister", "{kind}SharedMemoryUnregister", _region, _empty),
    _route("GET POST", "/v2/trace/setting", "TraceSetting", _trace, _traced),
    _route("GET POST", "/v2/models/(?P<name>[^/]+)/trace/setting", "TraceSetting", _trace, _traced),
    _route("GET POST", "/v2/logging", "LogSettings", _log, _logged),
)
