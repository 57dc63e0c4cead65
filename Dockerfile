# The GPU container: NVIDIA's Triton, its C++ onnxruntime backend, and this gateway, on one port.
#
#   docker build -t inference-server .
#   docker run --name inference_server -d --rm -p 8686:8686 --gpus all inference-server
#
# Not run where this was written, for want of a Docker engine, a GPU and NVIDIA's registry: the build itself, and
# serving on a GPU. Run by hand there: each pip step in a fresh environment, the user and directory
# steps, the entry point, and the health check, on Debian with the PyPI Triton.

# 25.04: Python 3.12, ONNX Runtime 1.21 in the backend.
FROM nvcr.io/nvidia/tritonserver:25.04-py3

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt constraints.txt pyproject.toml ./
# torch is PyPI's build for CUDA 13, which needs a driver of 580 or later. It converts models on the GPU, and serves
# them with ENGINE=torch:fp16. With an older driver, conversion takes the CPU, and ENGINE=torch:fp16 is refused.
RUN python3 -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --constraint constraints.txt uv \
 && .venv/bin/uv pip install --no-cache --python .venv/bin/python -c constraints.txt -r requirements.txt

COPY app.py ./
COPY gateway gateway
COPY converters converters
COPY triton_models triton_models

# Models and the Hub's cache; mount a volume here to keep them.
RUN useradd --create-home --uid 10001 inference \
 && mkdir -p /data/model_repository /data/huggingface \
 && chown -R inference /data
USER inference
VOLUME /data

ENV HOST=0.0.0.0 \
    PORT=8686 \
    MODEL_REPOSITORY=/data/model_repository \
    HF_HOME=/data/huggingface \
    PYTHONUNBUFFERED=1
EXPOSE 8686
# docker stop waits 10 s unless told: docker stop -t 50, for SHUTDOWN_TIMEOUT and what follows.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
  CMD ["/app/.venv/bin/python", "-c", "import httpx, os; httpx.get(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health').raise_for_status()"]
CMD ["/app/.venv/bin/python", "app.py"]
