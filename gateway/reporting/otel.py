"""OpenTelemetry, where the extra `otel` is installed and OTEL_* asks for it; else nothing of it is imported."""

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: One of these asks for spans; where they go, and which, is said by the other variables of OpenTelemetry itself.
ASKING = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

logger = logging.getLogger(__name__)


class _State:
    """What is there once it is configured."""

    tracer: Any = None
    provider: Any = None


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Make spans from now on, if that is asked for. What is missing for it is said in a line."""
    if not _is_asked_for(environment):
        return
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        logger.warning("OTEL_* asks for traces, and OpenTelemetry is not installed: install the extra otel")
        return
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporter == "console":
        module, name = "opentelemetry.sdk.trace.export", "ConsoleSpanExporter"
    elif exporter == "otlp":
        module, name = "opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"
    else:
        logger.warning("OTEL_TRACES_EXPORTER: give otlp (over HTTP), console or none; no traces are sent")
        return
    export_to(getattr(importlib.import_module(module), name)())


def export_to(exporter: Any) -> None:
    """Send spans there, in batches and on a thread of OpenTelemetry's own."""
    sdk = importlib.import_module("opentelemetry.sdk.trace")
    batches = importlib.import_module("opentelemetry.sdk.trace.export")
    _State.provider = sdk.TracerProvider()  # which reads OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and others
    _State.provider.add_span_processor(batches.BatchSpanProcessor(exporter))
    _State.tracer = _State.provider.get_tracer("gemini-openrouter-worker")


def close(timeout_s: float) -> None:
    """Send what is still waiting. Idempotent."""
    if _State.provider is not None:
        provider, _State.provider, _State.tracer = _State.provider, None, None
        provider.force_flush(round(timeout_s * 1000))
        provider.shutdown()


def traces() -> bool:
    """Whether spans are made."""
    return _State.tracer is not None


@contextmanager
def span(name: str, kind: str, data: Mapping[str, Any], of: Mapping[str, str] | None) -> Iterator[None]:
    """A span; in the trace `of` a request where that is given, else in the span around it.

    An exception is told by its type only: its text may hold anything.
    """
    trace = importlib.import_module("opentelemetry.trace")
    propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    parent = propagation.TraceContextTextMapPropagator().extract(dict(of)) if of else None
    with _State.tracer.start_as_current_span(
        name,
        context=parent,
        kind=trace.SpanKind[kind],
        attributes=dict(data),
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise


def _is_asked_for(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in ASKING)
