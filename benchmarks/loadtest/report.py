"""The figures of the load test as lines of text, in the wording of the tool that its users know."""

from typing import Any

from benchmarks.loadtest.settings import Settings

_MEBI = 1 << 20


def lines(settings: Settings, found: dict[str, Any]) -> list[str]:
    """Return the lines that are printed for a valid run."""
    response, inference = found["response_ms"], found["inference_ms"]
    per_thread = found["total_requests"] / settings.connections
    return [
        "Benchmark results:",
        f"Concurrent threads: {settings.connections}",
        f"Requests per thread: {per_thread:g}",
        f"Total requests: {found['total_requests']}",
        f"Total benchmark time: {found['seconds']:.2f} seconds",
        f"QPS: {found['qps']:.2f}",
        f"Mean response time: {response['mean'] / 1000:.4f} seconds",
        f"Median response time: {response['median'] / 1000:.4f} seconds",
        f"Standard deviation of response times: {response['stdev'] / 1000:.4f} seconds",
        f"Mean inference time: {inference['mean']:.4f} ms",
        f"Median inference time: {inference['median']:.4f} ms",
        f"Standard deviation of inference times: {inference['stdev']:.4f} ms",
        "Response time percentiles: "
        + ", ".join(f"{name} {response[name]:.1f}" for name in ("p50", "p90", "p95", "p99", "max"))
        + " ms",
        *_rates(settings, found),
        "Errors: 0",
        f"Bytes sent: {found['bytes_out']} ({found['bytes_out'] / _MEBI:.1f} MiB)",
        f"Bytes received: {found['bytes_in']} ({found['bytes_in'] / _MEBI:.1f} MiB)",
        *_triton(settings, found),
        *_client(settings, found),
    ]


def inputs(settings: Settings) -> str:
    """Name the inputs of the requests."""
    return {"text": "texts", "image": "images", "both": "texts and images"}[settings.input]


def _rates(settings: Settings, found: dict[str, Any]) -> list[str]:
    rates = (("Texts", settings.texts_sent), ("Images", settings.images_sent))
    return [f"{name} per second: {found[f'{name.lower()}_per_second']:.1f}" for name, sent in rates if sent]


def _triton(settings: Settings, found: dict[str, Any]) -> list[str]:
    if found["rows_computed"] is None:
        return ["Cache hits: unknown, the server shows no statistics of the model"]
    share, size = found["cache_hit_share"], found["mean_batch_size"]
    hits, all_lookups = found["cache_hits"], found["cache_hits"] + found["cache_misses"]
    return [
        "Cache hits: "
        + (f"{share:.1%} ({hits} of {all_lookups})" if share is not None else "no cache was asked"),
        "Mean batch size: "
        + (
            f"{size:.2f} ({found['rows_computed']} {inputs(settings)} in {found['executions']} runs)"
            if size
            else "nothing was run"
        ),
    ]


def _client(settings: Settings, found: dict[str, Any]) -> list[str]:
    shown = [
        f"Client CPU per request: {found['client_cpu_ms_per_request']:.4f} ms "
        f"(its busiest process: {found['client_busy_share']:.0%} of a core)"
    ]
    if settings.rate is not None:
        late = found["client_late_ms"]
        shown.append(f"Requested rate: {settings.rate:g} requests/s, {settings.arrivals} arrivals")
        if late:
            shown.append(f"Sent late by the client: p99 {late['p99']:.2f}, max {late['max']:.2f} ms")
    if found["reconnects"]:
        shown.append(f"Reconnected: {found['reconnects']} times")
    return shown
