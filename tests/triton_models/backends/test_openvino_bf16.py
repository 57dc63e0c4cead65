"""Which operations keep fp32, on a drawing of one transformer layer."""

from triton_models.backends.onnxruntime.openvino_bf16 import fp32_operations

TYPES = {
    "ids": "Parameter",
    "w": "Const",
    "scale": "Const",
    "embedding": "Gather",
    "mask": "Less",
    "norm": "MVN",
    "gamma": "Multiply",
    "query": "MatMul",
    "key": "MatMul",
    "scores": "MatMul",
    "masked": "Add",
    "softmax": "SoftMax",
    "out": "MatMul",
    "residual": "Add",
    "norm2": "MVN",
    "up": "MatMul",
    "gelu": "Gelu",
    "down": "MatMul",
    "residual2": "Add",
    "pooled": "Gather",
    "result": "Result",
}
EDGES = [
    *(("w", product) for product in ("query", "key", "out", "up", "down")),
    ("scale", "gamma"),
    ("ids", "embedding"),
    ("w", "embedding"),
    ("ids", "mask"),
    ("embedding", "norm"),
    ("norm", "gamma"),
    ("gamma", "query"),
    ("gamma", "key"),
    ("query", "scores"),
    ("key", "scores"),
    ("scores", "masked"),
    ("mask", "masked"),
    ("masked", "softmax"),
    ("softmax", "out"),
    ("out", "residual"),
    ("gamma", "residual"),
    ("residual", "norm2"),
    ("norm2", "up"),
    ("up", "gelu"),
    ("gelu", "down"),
    ("down", "residual2"),
    ("norm2", "residual2"),
    ("residual2", "pooled"),
    ("pooled", "result"),
]


def test_only_what_lies_between_products_with_weights_may_lose_precision() -> None:
    kept = fp32_operations(TYPES, EDGES)
    # Products with weights take no notice of being kept.
    assert set(TYPES) - kept - {"ids", "w", "scale", "result"} == {"scores", "masked", "softmax", "gelu"}
