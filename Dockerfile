# syntax=docker/dockerfile:1
# Targets: `worker` (the last one, so the default) runs the worker; `fake` runs the stand-in for OpenRouter.

FROM python:3.11-slim AS build
# The interpreter of the image is used, never one that uv would download.
ENV UV_PYTHON_DOWNLOADS=never UV_PYTHON=/usr/local/bin/python UV_PROJECT_ENVIRONMENT=/venv UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy
RUN pip install --no-cache-dir 'uv>=0.8,<1'
WORKDIR /src
# The packages change less often than our code: their layer comes first.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-install-project --no-progress
COPY README.md LICENSE ./
COPY gateway gateway
COPY middleware middleware
COPY actors actors
COPY bridge bridge
COPY console console
COPY fake_openrouter fake_openrouter
COPY gemini_client gemini_client
RUN uv sync --frozen --no-editable --no-progress

FROM build AS build-fake
RUN uv sync --frozen --no-editable --no-progress --extra fake

FROM python:3.11-slim AS base
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATE_PATH=/state/worker.sqlite3
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin worker && install -d -o worker -g worker /state
USER worker
WORKDIR /home
VOLUME /state

FROM base AS fake
COPY --from=build-fake /venv /venv
EXPOSE 8080
CMD ["python", "-m", "fake_openrouter", "--host", "0.0.0.0", "--port", "8080"]

FROM base AS worker
# docker build --build-arg VERSION=1.2.3 --build-arg REVISION="$(git rev-parse HEAD)" .
ARG VERSION=unknown REVISION=unknown
LABEL org.opencontainers.image.title="gemini-openrouter-worker" \
    org.opencontainers.image.description="Takes prompts from RabbitMQ, calls Gemini models through OpenRouter, answers on a callback queue." \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /venv /venv
# Asks neither RabbitMQ nor Redis: a worker waits for these, and a new one would wait as well.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["python", "-m", "console", "health"]
# `exec`: the worker, not the shell, gets SIGTERM and drains. Give it 30 s: `docker stop --time 30`.
CMD ["sh", "-c", "exec dramatiq-gevent actors --processes ${WORKER_PROCESSES:-2} --threads ${WORKER_THREADS:-50} --worker-shutdown-timeout 25000 --worker-fork-timeout 5000 --skip-logging"]
