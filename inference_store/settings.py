"""The settings, from command-line options, environment variables and a YAML file, in order of precedence.

The option `--max-record-bytes` is INFERENCE_STORE_MAX_RECORD_BYTES in the environment and max_record_bytes in
the file. README.md lists all settings; a test checks that.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from inference_store.identity import Matching
from inference_store.store import Mode

PREFIX = "INFERENCE_STORE_"
OFF = "off"
_LARGEST_MESSAGE = 2**31 - 1
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class SettingsError(ValueError):
    """A setting cannot be used; the message is one line that names it and says what is wrong."""


def _setting(read: Callable[[Any], Any], default: object, description: str) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"read": read, "help": description})


def _address(value: object) -> str:
    host, _, port = str(value).rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, without a scheme")
    return str(value)


def _address_or_off(value: object) -> str:
    # YAML reads a bare `off` as false.
    return OFF if value in (OFF, False) else _address(value)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return text in _TRUE


def _bytes(value: object) -> int:
    number = int(str(value))
    if not 0 < number <= 1 << 50:
        raise ValueError("must be a number of bytes above 0")
    return number


def _message_bytes(value: object) -> int:
    if _bytes(value) > _LARGEST_MESSAGE:
        raise ValueError(f"must be at most {_LARGEST_MESSAGE}, the limit of gRPC")
    return _bytes(value)


def _seconds(value: object) -> float:
    number = float(str(value))
    if not 0 <= number < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return number


def _tolerance(value: object) -> float:
    number = float(str(value))
    if not 0 <= number < math.inf:
        raise ValueError("must be 0 or a positive number")
    return number


def _path(value: object) -> Path:
    return Path(str(value))


def _names(value: object) -> frozenset[str]:
    parts = value if isinstance(value, list | tuple | frozenset) else str(value).split(",")
    return frozenset(str(part).strip() for part in parts if str(part).strip())


def _backend(value: object) -> str:
    text = str(value)
    if text not in ("directory", "memory") and not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be directory, memory or redis://HOST:PORT/DB")
    return text


def _level(value: object) -> str:
    if str(value).lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return str(value).lower()


def _mode(value: object) -> Mode:
    if str(value) not in list(Mode):
        raise ValueError("must be serve, collect or auto")
    return Mode(str(value))


@dataclass(frozen=True)
class Settings:
    """The settings; the metadata of each field holds its reader and its description."""

    mode: Mode = _setting(  # noqa: RUF009 - makes a dataclass field
        _mode, Mode.AUTO, "serve: records alone; collect: always the server; auto: both"
    )
    target: str | None = _setting(
        _address, None, "HOST:PORT of the server's gRPC; needed by collect and auto"
    )
    path: Path = _setting(  # noqa: RUF009 - as above
        _path, Path("inference_files"), "directory of the records"
    )
    listen: str = _setting(_address, "127.0.0.1:9001", "HOST:PORT of the store's gRPC; port 0 for any")
    http_listen: str = _setting(_address_or_off, "127.0.0.1:9000", "HOST:PORT of its HTTP, or off")
    backend: str = _setting(
        _backend, "directory", "where records are: directory, memory or redis://HOST:PORT/DB"
    )
    backend_bytes: int = _setting(_bytes, 1 << 30, "bytes of all records, in memory or Redis")
    ttl: float = _setting(_seconds, 86400.0, "seconds a record lives in Redis; 0 for ever")
    compress: bool = _setting(_switch, False, "write compressed records; both kinds are read")
    ignore_parameters: frozenset[str] = _setting(
        _names, frozenset(), "comma-separated names of parameters that do not count, or all"
    )
    subset_outputs: bool = _setting(_switch, False, "a record with more outputs than asked for answers too")
    tolerance: float = _setting(_tolerance, 0.0, "largest absolute difference of elements of float inputs")
    max_record_bytes: int = _setting(_bytes, 256 << 20, "a larger request with its answer is not recorded")
    max_message_bytes: int = _setting(_message_bytes, _LARGEST_MESSAGE, "size of one request")
    timeout: float = _setting(_seconds, 300.0, "seconds that the server may take to answer one call")
    grace: float = _setting(
        _seconds, 30.0, "seconds that calls under way are given when the store is stopped"
    )
    log_level: str = _setting(_level, "info", "debug, info, warning or error")

    @property
    def matching(self) -> Matching:
        """The rules by which a record may answer a different request."""
        return Matching(self.ignore_parameters, self.subset_outputs, self.tolerance)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each setting; an option that is not given is absent from the result."""
    parser.add_argument("--config", help="a YAML file of settings", default=argparse.SUPPRESS)
    for setting in fields(Settings):
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            help=f"{setting.metadata['help']} ({_shown(setting.default)})",
            default=argparse.SUPPRESS,
            nargs="?" if isinstance(setting.default, bool) else None,
            const=True if isinstance(setting.default, bool) else None,
        )


def read_settings(options: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Read the settings from the options, the environment, and the file that one of them names.

    Raises:
        SettingsError: A setting cannot be used; the message names it and where it was set.
    """
    config = options.get("config") or environment.get(f"{PREFIX}CONFIG")
    sources: list[tuple[Mapping[str, object], str]] = [
        ({name: value for name, value in options.items() if name != "config"}, "--{}"),
        (
            {name[len(PREFIX) :].lower(): v for name, v in environment.items() if name.startswith(PREFIX)},
            PREFIX + "{}",
        ),
        ({} if not config else _file(Path(str(config))), f"{config}: {{}}"),
    ]
    values: dict[str, object] = {}
    for setting in fields(Settings):
        for source, naming in sources:
            if setting.name in source:
                shown = naming.format(setting.name.upper() if naming.startswith(PREFIX) else setting.name)
                values[setting.name] = _read(setting.metadata["read"], source[setting.name], shown)
                break
    settings = Settings(**values)  # type: ignore[arg-type]
    if settings.target is None and settings.mode is not Mode.SERVE:
        raise SettingsError(
            f"--target HOST:PORT is needed in mode {settings.mode}; without a server use --mode serve"
        )
    return settings


def _read(read: Callable[[object], object], value: object, shown: str) -> object:
    if shown.startswith("--"):
        shown = shown.replace("_", "-")
    try:
        return read(value)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{shown}: {error} (got {value!r})") from error


def _file(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    unknown = {str(name) for name in content} - {setting.name for setting in fields(Settings)}
    if unknown:
        raise SettingsError(f"{path}: unknown setting {sorted(unknown)[0]}")
    return content


def _shown(default: object) -> str:
    if isinstance(default, frozenset) or default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
