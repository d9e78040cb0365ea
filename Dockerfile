# honed in a container: the server, its models, its clients and its workers.
#
# CUDA (the default), and CPU, whose build of torch lies in an index of its own that torch's install page names:
#   docker build -t honed .
#   docker build -t honed --build-arg TORCH_INDEX_URL=<torch's CPU index> .
#
# Beyond loopback the server refuses to start without an API key. The volume keeps models and data:
#   docker run -p 8000:8000 -v honed:/data -e HONED_API_KEYS=<a long random string> honed
#   docker run -p 8000:8000 -v honed:/data -e HONED_API_KEYS=<a long random string> --gpus all honed
#
# A worker, on the same volume; the health check is the server's:
#   docker run --no-healthcheck -v honed:/data honed worker
#
# `docker stop` kills after 10 s; `docker stop --time 60` lets running answers end.

FROM python:3.11-slim AS build

ARG TORCH_INDEX_URL=""

RUN python -m venv /opt/honed
ENV PATH=/opt/honed/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /source

# torch first and alone: its layer is the largest by far, and no change of the source touches it.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -c constraints.txt torch

COPY pyproject.toml README.md LICENSE __init__.py ./
COPY cli cli
COPY models models
COPY server server
COPY training training
COPY clients clients
RUN pip install -c constraints.txt '.[postgres,parquet,train]'


FROM python:3.11-slim

RUN useradd --system --uid 10001 --create-home honed \
    && install --directory --owner=honed /data

COPY --from=build /opt/honed /opt/honed

# The hub client's own token and caches belong on the volume as well.
ENV PATH=/opt/honed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HONED_HOME=/data \
    HF_HOME=/data/huggingface

# By number, so that an orchestrator can tell that it is not root.
USER 10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM

# Not ready while the first start fetches the model; not through a proxy that the environment names.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["honed"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
