"""The operator's settings: environment variables, read once at start, typed and frozen.

`docs/reference/configuration.md` lists every setting with its default; a test compares them.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.allowed_hosts import AllowedHosts
from gateway.credentials import SECRETS
from gateway.model_id import ModelId
from triton_models.contract.accuracy import Precision
from triton_models.contract.names import InvalidModelName
from triton_models.server.response_cache import parse_response_cache

_CPU_ENGINES = "onnxruntime:fp32 openvino:fp32 openvino:bf16-mixed openvino:bf16"
ENGINE_NAMES = ("auto", *_CPU_ENGINES.split(), "torch:fp16", "torch:bf16")
"""Same as in the backend's `sessions.py`, which the gateway cannot import; a test compares them."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,?#@]+", re.IGNORECASE)
_HEADER = re.compile(r"[a-z0-9_.-]+=[ -~]+")

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

RENAMED = {
    "MAX_QUEUED_ROWS": "MAX_QUEUED_INPUTS",
    "TRITON_GRPC_URL": "TRITON_GRPC_ADDRESS",
    "UNLOAD_LEAST_RECENTLY_USED": "EVICT_LEAST_RECENTLY_USED",
}
"""Old names of settings, which still work, and the new ones."""

REMOVED = {"MAX_LOADED_BYTES": "it counted bytes of weights, not memory; set MAX_LOADED_MODELS instead"}
"""Settings that are gone, and what to do instead. The gateway does not start with one of them."""

log = logging.getLogger(__name__)


class SettingsError(SystemExit):
    """An environment variable cannot be used; the message is one line that names it."""


def _split(separator: str) -> BeforeValidator:
    def split(value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(separator) if part.strip())

    return BeforeValidator(split)


class Settings(BaseSettings):
    """Settings of the gateway; each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=False)

    host: str = Field("127.0.0.1", description="Address the API listens on (scripts/serve, run by hand).")
    port: int = Field(8686, ge=1, le=65535, description="Port of the API.")
    model_repository: Path = Field(
        Path("model_repository"), description="Directory of the converted models, in Triton's layout."
    )
    model_sources: Annotated[tuple[Path, ...], NoDecode, _split(os.pathsep)] = Field(
        (), description="Directories searched first for a model's files, separated by ':'."
    )
    max_loaded_models: int | None = Field(
        None, ge=1, description="Models that may be loaded at a time; unset: as many as fit."
    )
    evict_least_recently_used: bool = Field(
        False, description="Make room for a model by unloading others, instead of refusing it."
    )
    load_models: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (DEFAULT_MODEL,), description="Models loaded at start, comma-separated; empty for none."
    )
    triton_grpc_address: str | None = Field(
        None, description="host:port of a running Triton; unset: the embedded one is started."
    )
    triton_metrics_url: str | None = Field(
        None, description="Address of that Triton's metrics; unset: port 8002 of the same host."
    )
    response_cache: str = Field(
        "local:134217728",
        description="local:SIZE_IN_BYTES, redis://host:port or off; for the embedded Triton.",
    )
    engine: str = Field(
        "auto",
        description="What computes on the CPU: engine:precision, or auto for the fastest that is exact.",
    )
    export_precision: Precision = Field(
        "fp32",
        description="Of weights of sentence-transformers models; fp16 is for GPUs, within 0.999.",
    )
    triton_grpc_tls_ca: Path | None = Field(
        None, description="File of the certificates to trust (PEM); turns on TLS to that Triton."
    )
    triton_grpc_tls_cert: Path | None = Field(
        None, description="File of this client's certificate (PEM), where that Triton asks for one."
    )
    triton_grpc_tls_key: Path | None = Field(None, description="File of its key (PEM).")
    triton_grpc_headers: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (), repr=False, description="NAME=VALUE, comma-separated, sent with every call to that Triton."
    )
    api_keys: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (), repr=False, description="Comma-separated keys, one of which each request must carry; unset: open."
    )
    admin_api_keys: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (), repr=False, description="Keys that loading and deleting models need then; unset: API_KEYS do it."
    )
    rate_limit: float | None = Field(
        None, gt=0, description="Requests a second for each key, or for each address where there is none."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (), description="Origins whose web pages may use the API, comma-separated, or *; unset: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    log_format: Literal["json", "text"] | None = Field(
        None, description="Form of the log's lines; unset: text on a terminal, json elsewhere."
    )
    max_inputs: int = Field(4096, ge=1, description="Texts or images one request may carry.")
    max_queued_inputs: int = Field(
        16384, ge=1, description="Inputs of one model that may wait, of small requests and of bulk each."
    )
    max_queue_seconds: float = Field(
        10, gt=0, description="Longest predicted wait of a request; one that would wait longer is refused."
    )
    max_text_characters: int = Field(1_000_000, ge=1, description="Length of one text, in characters.")
    max_body_bytes: int = Field(64 << 20, ge=1024, description="Size of a request's body, in bytes.")
    request_timeout: float = Field(120, gt=0, description="Seconds an embedding request may take.")
    max_image_bytes: int = Field(16 << 20, ge=1024, description="Size of one image as it is sent, in bytes.")
    max_image_pixels: int = Field(64_000_000, ge=1, description="Width times height of one image.")
    image_hosts_allowed: Annotated[tuple[str, ...], NoDecode, _split(",")] = Field(
        (), description="Hosts, addresses and networks that images may come from besides public addresses."
    )
    image_fetch_timeout: float = Field(10, gt=0, description="Seconds that fetching one image may take.")
    image_fetch_concurrency: int = Field(32, ge=1, description="Images fetched at a time.")
    load_timeout: float = Field(120, gt=0, description="Seconds Triton may take to load one model.")
    check_seconds: float = Field(
        20, ge=0, description="Seconds of a conversion's check beyond its minimum; 0: the long check."
    )
    max_conversions: int = Field(
        4, ge=1, description="Conversions at a time in each worker; others wait, beyond 32 are refused."
    )
    conversion_timeout: float = Field(3600, gt=0, description="Seconds one conversion may take.")
    shutdown_timeout: float = Field(
        30, gt=0, description="Seconds in which accepted requests are finished at the end."
    )
    shutdown_delay: float = Field(
        0, ge=0, description="Seconds at the end in which requests are served and /health is 503 already."
    )
    trust_remote_code: bool = Field(
        False, description="Let a model's own Python code run while it is converted."
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("admin_api_keys")
    @classmethod
    def _of_administrators_only(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if set(value) & set(info.data.get("api_keys", ())):
            raise ValueError("a key is in API_KEYS too; those of ADMIN_API_KEYS can embed as it is")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is no origin; write SCHEME://HOST or SCHEME://HOST:PORT")
        return value

    @field_validator("triton_grpc_tls_ca", "triton_grpc_tls_cert", "triton_grpc_tls_key")
    @classmethod
    def _readable_file(cls, value: Path | None) -> Path | None:
        if value is not None and not (value.is_file() and os.access(value, os.R_OK)):
            raise ValueError(f"{value} cannot be read")
        return value

    @field_validator("triton_grpc_tls_key")
    @classmethod
    def _whole(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("triton_grpc_tls_cert")
        if (value is None) != (certificate is None):
            raise ValueError("set TRITON_GRPC_TLS_CERT and TRITON_GRPC_TLS_KEY, or neither")
        if value is not None and info.data.get("triton_grpc_tls_ca") is None:
            raise ValueError("set TRITON_GRPC_TLS_CA too, which turns on TLS")
        return value

    @field_validator("triton_grpc_headers")
    @classmethod
    def _headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HEADER.fullmatch(header) for header in value):
            raise ValueError("must be NAME=VALUE, comma-separated, names in small letters, values in ASCII")
        return value

    @field_validator("model_sources")
    @classmethod
    def _directories(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in value:
            if not path.is_dir():
                raise ValueError(f"{path} is not a directory")
        return value

    @field_validator("model_repository")
    @classmethod
    def _usable_directory(cls, value: Path) -> Path:
        try:
            value.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{value} cannot be made a directory: {error.strerror}") from error
        if not os.access(value, os.W_OK | os.X_OK):
            raise ValueError(f"{value} is not writable")
        return value.resolve()

    @field_validator("load_models")
    @classmethod
    def _model_names(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            try:
                ModelId.parse(name)
            except InvalidModelName as error:
                raise ValueError(f"{name!r}: {error}") from error
        most = info.data.get("max_loaded_models")
        if most is not None and len(set(value)) > most:
            raise ValueError(f"names {len(set(value))} models, MAX_LOADED_MODELS is {most}")
        return value

    @field_validator("image_hosts_allowed")
    @classmethod
    def _image_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowedHosts(value)
        return value

    @field_validator("response_cache")
    @classmethod
    def _response_cache(cls, value: str) -> str:
        parse_response_cache(value)
        return value

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str) -> str:
        if value not in ENGINE_NAMES:
            raise ValueError(f"must be one of {', '.join(ENGINE_NAMES)}")
        return value

    @field_validator("triton_grpc_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or "/" in value or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("must be host:port, without a scheme")
        return value


def read_settings(credentials: Mapping[str, str] = MappingProxyType({})) -> Settings:
    """Read the settings from the environment.

    Args:
        credentials: Variables taken out of the environment by `credentials.py`; they take precedence.

    Raises:
        SettingsError: A variable has a value that cannot be used, or is no longer supported.
    """
    environment = {name.upper(): value for name, value in os.environ.items()}
    for name, instead in REMOVED.items():
        if name in environment:
            raise SettingsError(f"{name}: this setting is gone: {instead}")
    given: dict[str, Any] = {name.lower(): credentials[name] for name in SECRETS if name in credentials}
    old_names = {new: old for old, new in RENAMED.items() if old in environment and new not in environment}
    given |= {new.lower(): environment[old] for new, old in old_names.items()}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "settings"
        name = old_names.get(name, name)
        message = first["msg"].removeprefix("Value error, ")
        got = "" if name in SECRETS else f" (got {environment.get(name)!r})"
        # Not chained, since pydantic's own message shows the value.
        raise SettingsError(f"{name}: {message}{got}") from None


def warn_of_old_names() -> None:
    """Log one line for each setting that has its old name in the environment."""
    environment = {name.upper() for name in os.environ}
    for old, new in RENAMED.items():
        if old in environment:
            used = "is ignored" if new in environment else "still works"
            log.warning("%s is called %s now; the old name %s", old, new, used)
