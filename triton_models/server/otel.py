"""OpenTelemetry's standard environment variables, and the embedded Triton's arguments made from them.

Source: OpenTelemetry's specification, "OpenTelemetry Protocol Exporter" and "Environment Variable".
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

SERVICE = "embedding-server"
"""The service.name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES gives another one."""

PROTOCOL = "http/protobuf"
"""The only protocol supported. Triton's exporter speaks only OTLP over HTTP, and uses the same endpoint."""

BATCHING = ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
"""The variables of batching for which Triton has settings; it does not read the variables itself."""


class TelemetryError(ValueError):
    """A variable has a value that cannot be used; the message is one line that names the variable."""


def traces_url(environment: Mapping[str, str]) -> str | None:
    """Return the URL for spans, or None if tracing is off, as it is by default.

    Raises:
        TelemetryError: The exporter, the protocol or the endpoint is not supported.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name, url = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not url and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        name, url = "OTEL_EXPORTER_OTLP_ENDPOINT", f"{base.rstrip('/')}/v1/traces"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if not url or exporter == "none":
        return None
    if exporter != "otlp":
        raise TelemetryError(f"OTEL_TRACES_EXPORTER: must be otlp or none (got {exporter!r})")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(variable):
            if protocol != PROTOCOL:
                raise TelemetryError(f"{variable}: must be {PROTOCOL} (got {protocol!r})")
            break
    if not _is_http(url):
        raise TelemetryError(f"{name}: must be an http:// or https:// URL (got {environment[name]!r})")
    return url


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def trace_arguments(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments with which Triton sends its spans to our endpoint; none if tracing is off.

    With a rate of 0 Triton traces only the requests that carry a trace context.

    Raises:
        TelemetryError: As for `traces_url`.
    """
    url = traces_url(environment)
    if url is None:
        return []
    settings = [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",
        f"opentelemetry,url={url}",
        f"opentelemetry,resource=service.name={service_name(environment)}-triton",
    ]
    for variable in BATCHING:
        value = environment.get(variable, "")
        if value.isdigit():
            settings.append(f"opentelemetry,{variable.removeprefix('OTEL_').lower()}={value}")
    return [f"--trace-config={setting}" for setting in settings]


def service_name(environment: Mapping[str, str]) -> str:
    """Return the service.name of the gateway."""
    if name := environment.get("OTEL_SERVICE_NAME"):
        return name
    for attribute in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = attribute.partition("=")
        if key.strip() == "service.name" and value.strip():
            return value.strip()
    return SERVICE
