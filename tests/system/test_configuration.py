"""Settings as people really write them: what works in spite of it, what is said, and what ends the process."""

import re

import pytest

from dev.certificates import installed, made
from dev.ports import free_ports
from dev.rabbitmq import Node
from dev.redis import redis_server, with_tls
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import running
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Where nothing listens.
NOWHERE = "http://127.0.0.1:1"


def warnings(stack: Stack) -> list[str]:
    """What every process of a worker has said as a warning, without the time."""
    return [line for worker in stack.processes for line in re.findall("WARNING - (.*)", worker.output())]


def said(stack: Stack, text: str) -> list[str]:
    """The warnings that hold a text, once there is one."""
    return wait_until(lambda: [line for line in warnings(stack) if text in line], what=f"a warning: {text}")


def test_quotes_bare_models_and_a_proxy_of_the_machine_are_no_trouble(make_stack: MakeStack):
    """K6: as `docker run --env-file` hands settings over, on a machine whose own proxy is not for us."""
    stack, fake = make_stack(keys=2)
    worker = stack.start_worker(
        OPENROUTER_API_KEYS=f'"{KEYS[0]}","{KEYS[1]}"',
        OPENROUTER_MODEL="'gemini-2.5-pro'",
        MODEL_ALIASES="'fast=gemini-2.5-flash-lite'",
        RESPONSE_QUEUE='"gemini.responses"',
        http_proxy=NOWHERE,
        HTTP_PROXY="'http://user:canary-of-the-proxy@127.0.0.1:1'",
        NO_PROXY="localhost,127.0.0.0/8",
    )
    stack.publish(
        *({"request_id": f"r-{model}", "prompt": "Hello", "model": model} for model in ("gemini-pro", "fast"))
    )

    assert {answer["status"] for answer in stack.answers(2)} == {"success"}
    assert {call["model"] for call in fake.calls()} == {"google/gemini-2.5-pro", "google/gemini-2.5-flash-lite"}
    assert "canary" not in worker.output()


def test_names_are_mapped_with_keys_of_gemini_only(make_stack: MakeStack):
    """K6: `gemini-pro` and aliases, which were `model_not_found` there."""
    stack, fake = make_stack(GEMINI_API_KEYS=KEYS[0], MODEL_ALIASES="fast=google/gemini-3-flash")
    stack.start_worker(OPENROUTER_API_KEYS="", GEMINI_BASE_URL=fake.base_url)
    stack.publish(
        *({"request_id": f"r-{model}", "prompt": "Hello", "model": model} for model in ("gemini-pro", "fast"))
    )

    assert {answer["status"] for answer in stack.answers(2)} == {"success"}
    assert {call["model"] for call in fake.calls()} == {"gemini-2.5-flash", "gemini-3-flash"}


def test_what_only_the_provider_knows_is_said_once_a_worker(make_stack: MakeStack):
    """K6: a key that it refuses, a model that it does not have; requests are answered meanwhile."""
    unknown = "sk-or-v1-canary-of-nobody-9999"
    stack, _ = make_stack(MODEL_ALIASES="fast=google/gemini-9-flash", WORKER_PROCESSES=2)
    worker = stack.start_worker(OPENROUTER_API_KEYS=f"{unknown},{KEYS[0]}")
    stack.publish({"request_id": "r-1", "prompt": "Hello"})

    assert stack.answers(1)[0]["status"] == "success"
    said(stack, "google/gemini-9-flash is not among the provider's models: set OPENROUTER_MODEL or MODEL_ALIASES")
    said(stack, "Key ****9999 is refused, correct it in OPENROUTER_API_KEYS")
    worker.terminate()
    assert worker.wait() == 0
    assert len(said(stack, "gemini-9-flash is not among")) == 1
    assert len(said(stack, "is refused, correct it")) == 1
    assert "canary" not in worker.output()


@pytest.mark.parametrize("path", ["/api/v1/chat/completions", "", "/v1"])
def test_an_address_without_the_api_is_said(make_stack: MakeStack, path: str):
    """K2, K6: a web server's 404, at an address that only the server knows to be wrong."""
    stack, fake = make_stack()
    stack.start_worker(OPENROUTER_BASE_URL=fake.base_url + path)

    (warning,) = said(stack, "OPENROUTER_BASE_URL")
    assert "OpenRouter does not answer there: give an address like https://openrouter.ai/api/v1" in warning


def test_a_placeholder_ends_the_process_with_a_line(make_stack: MakeStack):
    """K6: before anything is fetched from the queue."""
    stack, _ = make_stack()
    real = "https://openrouter.ai/api/v1"  # a stand-in has keys by any name
    worker = stack.start("worker", OPENROUTER_API_KEYS="your-api-key-here", OPENROUTER_BASE_URL=real)

    assert worker.wait() == 78
    assert "OPENROUTER_API_KEYS: key number 1 is a placeholder: give the whole key" in worker.output()


@pytest.mark.skipif(not installed(), reason="makes its certificates with openssl")
def test_servers_of_an_authority_of_their_own(redis_installed: None, rabbitmq_installed: None, tmp_path, stack_at):
    """K8: RabbitMQ and Redis with TLS; the worker says what it needs, and then works."""
    certificates = made(tmp_path)
    amqps, redis = free_ports(2)
    node = Node(tmp_path / "rabbitmq")
    node.folder.mkdir()
    files = f'{{cacertfile,"{certificates.authority}"}},{{certfile,"{certificates.certificate}"}}'
    tls = f'[{{ssl_listeners,[{{"127.0.0.1",{amqps}}}]}},{{ssl_options,[{files},{{keyfile,"{certificates.key}"}}]}}]'
    (node.folder / "advanced.config").write_text(f"[{{rabbit,{tls}}}].\n")
    with node.started(), redis_server(*with_tls(certificates, redis)), running(keys=KEYS[:1]) as fake:
        stack = Stack.apart(
            node.url,
            fake.base_url,
            tmp_path,
            OPENROUTER_API_KEYS=KEYS[0],
            REDIS_URL=f"rediss://localhost:{redis}/0",
        )
        stack.environment["RABBITMQ_URL"] = f"amqps://guest:guest@localhost:{amqps}/?heartbeat=5"
        try:
            check(stack, str(certificates.authority))
        finally:
            stack.close()


def check(stack: Stack, authority: str) -> None:
    refused = stack.start("worker")
    assert refused.wait() == 69
    assert "is not trusted: name its authority in RABBITMQ_CA_FILE" in refused.output()
    refused = stack.start("worker", RABBITMQ_CA_FILE=authority)
    assert refused.wait() == 69
    assert "name the authority of its certificate in REDIS_CA_FILE" in refused.output()
    for number, way in enumerate(({"REDIS_CA_FILE": authority}, {"REDIS_TLS_VERIFY": "false"})):
        worker = stack.start_worker(RABBITMQ_CA_FILE=authority, **way)
        stack.publish({"request_id": f"r-{number}", "prompt": "Hello"})
        assert stack.answers(1)[0]["status"] == "success"
        worker.terminate()
        assert worker.wait() == 0
    assert len(said(stack, "its certificate is not verified")) == 1
