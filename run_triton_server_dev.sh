#!/usr/bin/env bash
# Starts a Triton alone, in the foreground, for development: NVIDIA's container where a Docker engine
# answers, else the binary of the PyPI package nvidia-pytriton. A second terminal serves on it; what to
# type there is printed. Every user of this machine can load code into it: not for a shared host.
#
#   MODEL_REPOSITORY   directory of the models       (model_repository)
#   GRPC_PORT          of Triton on this machine     (8001)
#   METRICS_PORT       of its Prometheus metrics     (8002)
#   RESPONSE_CACHE     local:SIZE_IN_BYTES, off; with the container redis://host:port too
#   TRITON_IMAGE       the container                 (nvcr.io/nvidia/tritonserver:24.10-py3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

repository="${MODEL_REPOSITORY:-model_repository}"
grpc_port="${GRPC_PORT:-8001}"
metrics_port="${METRICS_PORT:-8002}"
cache="${RESPONSE_CACHE:-local:134217728}"
image="${TRITON_IMAGE:-nvcr.io/nvidia/tritonserver:24.10-py3}"

mkdir -p "$repository"
repository="$(cd "$repository" && pwd)"

if command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1; then
    case "$cache" in
        off) cache_options=() ;;
        local:*) cache_options=("--cache-config=local,size=${cache#local:}") ;;
        redis://*:*)
            address="${cache#redis://}"
            cache_options=("--cache-config=redis,host=${address%:*}" "--cache-config=redis,port=${address##*:}")
            ;;
        *)
            echo "RESPONSE_CACHE must be local:SIZE_IN_BYTES, redis://host:port or off" >&2
            exit 1
            ;;
    esac
    gpu_options=()
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        gpu_options=(--gpus all)
    fi
    echo "In a second terminal: MODEL_REPOSITORY=$repository TRITON_GRPC_ADDRESS=127.0.0.1:$grpc_port scripts/serve"
    exec docker run --rm --init "${gpu_options[@]}" \
        -p "127.0.0.1:$grpc_port:8001" -p "127.0.0.1:$metrics_port:8002" \
        -v "$repository:/models:ro" "$image" \
        tritonserver --model-repository=/models --model-control-mode=explicit \
        --disable-auto-complete-config --strict-readiness=false --allow-http=false "${cache_options[@]}"
fi

scripts/install
exec .venv/bin/python -m triton_models.server --repository "$repository" \
    --grpc-port "$grpc_port" --metrics-port "$metrics_port" --response-cache "$cache"
