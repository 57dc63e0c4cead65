"""OpenTelemetry's standard variables: where traces go, and how the embedded Triton is told.

Source: OpenTelemetry's specification, "OpenTelemetry Protocol Exporter" and "Environment Variable".
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

SERVICE = "embedding-server"
"""service.name unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says another."""

PROTOCOL = "http/protobuf"
"""The one that is spoken: Triton's own exporter speaks OTLP over HTTP only, and both get one endpoint."""

BATCHING = ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
"""Variables of sending in batches that Triton has settings for; it does not read them by itself."""


class TelemetryError(ValueError):
    """A variable cannot be used; the text is one line that names it."""


def traces_url(environment: Mapping[str, str]) -> str | None:
    """Where spans are sent; None where tracing is off, as it is unless an endpoint is named.

    Raises:
        TelemetryError: an exporter, a protocol or an endpoint that cannot be had here.
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
    """Arguments that make Triton send its spans where ours go; none where tracing is off.

    A rate of 0 has it trace the requests that come with a trace's context, and no others.

    Raises:
        TelemetryError: as `traces_url`.
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
    """The service.name of the front end."""
    if name := environment.get("OTEL_SERVICE_NAME"):
        return name
    for attribute in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = attribute.partition("=")
        if key.strip() == "service.name" and value.strip():
            return value.strip()
    return SERVICE
