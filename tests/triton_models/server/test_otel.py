"""What OpenTelemetry's variables mean."""

import pytest

from triton_models.server.otel import TelemetryError, service_name, trace_arguments, traces_url

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({BASE: ""}, None),
        ({BASE: "http://a:4318"}, "http://a:4318/v1/traces"),
        ({BASE: "https://a/otlp/"}, "https://a/otlp/v1/traces"),
        ({BASE: "http://a", TRACES: "http://b/there"}, "http://b/there"),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "True"}, None),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http://a/v1/traces"),
    ],
)
def test_where_traces_go(environment: dict[str, str], url: str | None) -> None:
    assert traces_url(environment) == url


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({BASE: "a:4318"}, BASE),
        ({BASE: "grpc://a:4317"}, BASE),
        ({BASE: "http://[a"}, BASE),
        ({TRACES: "http://"}, TRACES),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_what_cannot_be_used_is_named(environment: dict[str, str], name: str) -> None:
    with pytest.raises(TelemetryError, match=f"^{name}: must be "):
        traces_url(environment)


def test_triton_is_told_only_while_tracing_is_on() -> None:
    assert trace_arguments({}) == []
    arguments = trace_arguments({BASE: "http://a", "OTEL_BSP_SCHEDULE_DELAY": "100"})
    assert "--trace-config=opentelemetry,url=http://a/v1/traces" in arguments
    assert "--trace-config=opentelemetry,bsp_schedule_delay=100" in arguments


def test_the_service_has_the_name_it_is_given() -> None:
    assert service_name({}) == "embedding-server"
    assert service_name({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=of-resource"}) == "of-resource"
    assert service_name({"OTEL_SERVICE_NAME": "own", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"}) == "own"
