"""Triton's statistics as plain dictionaries, in the form that `/metrics` returns.

    {name, version, last_inference, inference_count, execution_count,
     inference_stats: {success, fail, queue, compute_input, compute_infer, compute_output,
                       cache_hit, cache_miss},
     batch_stats: [{batch_size, compute_input, compute_infer, compute_output}]}

Each figure is {count, ns}, where ns is the total time in nanoseconds. inference_count is the number of rows
computed, execution_count the number of runs that computed them, and last_inference a time in ms since 1970.
"""

from typing import Any


def statistics_as_dicts(response: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - generated protobuf, untyped
    """Return the statistics of all models of a ModelStatisticsResponse."""
    return [
        {
            "name": model.name,
            "version": model.version,
            "last_inference": int(model.last_inference),
            "inference_count": int(model.inference_count),
            "execution_count": int(model.execution_count),
            "inference_stats": _durations(model.inference_stats),
            "batch_stats": [
                {"batch_size": int(batch.batch_size), **_durations(batch)} for batch in model.batch_stats
            ],
        }
        for model in response.model_stats
    ]


def _durations(message: Any) -> dict[str, dict[str, int]]:  # noqa: ANN401 - as above
    """Return the figures of a message, whose other fields are plain numbers."""
    steps = (field.name for field in message.DESCRIPTOR.fields if field.message_type is not None)
    return {
        step: {"count": int(getattr(message, step).count), "ns": int(getattr(message, step).ns)}
        for step in steps
    }
