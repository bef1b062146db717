"""Servers whose certificate has an authority of its own, as Heroku's Redis has: reached, or refused with a remedy."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from dev.certificates import Certificates, installed, made
from dev.ports import free_ports
from dev.redis import redis_server, with_tls
from gateway.errors import StoreUnavailable, TopologyError
from gateway.keys.redis import RedisKeyStore
from gateway.rabbitmq import amqp
from gateway.resources import Stores, open_stores
from gateway.settings import load_settings
from gateway.stores.redis_server import RedisServer

pytestmark = pytest.mark.skipif(not installed(), reason="makes its certificates with openssl")

PASSWORD = "canary-of-redis"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def redis_port(redis_installed: None, certificates: Certificates) -> Iterator[int]:
    """Of a Redis that speaks TLS only, there."""
    (port,) = free_ports(1)
    with redis_server(*with_tls(certificates, port)):
        yield port


def opened(url: str, **settings: str) -> Stores:
    with mock.patch.dict(os.environ, {"REDIS_URL": url, **settings}, clear=True):
        return open_stores(load_settings(need_keys=False))


def refusal(url: str, **settings: str) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        opened(url, **settings)
    text = str(caught.value)
    assert "canary" not in text
    assert "\n" not in text
    return text


def test_a_redis_of_an_authority_of_its_own_is_used(redis_port: int, certificates: Certificates):
    """The authority is named, and the certificate verified."""
    stores = opened(f"rediss://localhost:{redis_port}/0", REDIS_CA_FILE=str(certificates.authority))
    assert isinstance(stores.keys, RedisKeyStore)
    stores.close()


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE"])
def test_a_redis_as_heroku_has_it_is_used(redis_port: int, query: str):
    """Self-signed, as Heroku documents it: https://devcenter.heroku.com/articles/connecting-heroku-redis."""
    verify = "true" if query else "false"
    opened(f"rediss://localhost:{redis_port}/0{query}", REDIS_TLS_VERIFY=verify).close()


def test_a_redis_that_is_not_trusted_is_refused_with_the_remedy(redis_port: int):
    """Was: exit 69 and a restart loop, and a text that only names REDIS_URL."""
    text = refusal(f"rediss://:{PASSWORD}@localhost:{redis_port}/0")
    assert "CERTIFICATE_VERIFY_FAILED" in text
    assert text.endswith(
        "See REDIS_URL: name the authority of its certificate in REDIS_CA_FILE, or, as Heroku documents for "
        "its add-on, set REDIS_TLS_VERIFY=false"
    )


def test_a_redis_of_another_name_is_refused_with_the_remedy(redis_installed: None, tmp_path: Path):
    """The authority is right, and the certificate is somebody else's."""
    others = made(tmp_path, "DNS:redis.example")
    (port,) = free_ports(1)
    with redis_server(*with_tls(others, port)):
        text = refusal(f"rediss://:{PASSWORD}@localhost:{port}/0", REDIS_CA_FILE=str(others.authority))
    assert text.endswith("See REDIS_URL: give the host by a name that is in its certificate")


def test_tls_to_a_port_without_it_is_refused_with_the_remedy(redis_installed: None, monkeypatch: pytest.MonkeyPatch):
    """`rediss://` for `redis://`: Redis waits for the end of a line, which TLS has none of."""
    (port,) = free_ports(1)
    monkeypatch.setattr("gateway.stores.redis_server.RedisServer", partial(RedisServer, timeout_s=0.5))
    with redis_server("--port", str(port)):
        text = refusal(f"rediss://:{PASSWORD}@localhost:{port}/0")
    assert text.endswith("is it running, and has that port TLS where it begins with rediss://?")


def test_no_tls_to_a_port_with_it_is_refused_with_the_remedy(redis_port: int):
    """`redis://` for `rediss://`: the server ends the connection."""
    text = refusal(f"redis://localhost:{redis_port}/0")
    assert text.endswith("See REDIS_URL: a port with TLS asks for rediss://")


@contextmanager
def rabbitmq_until_the_handshake(certificates: Certificates) -> Iterator[int]:
    """Shows its certificate and ends every connection; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with suppress(OSError), closing(peer), context.wrap_socket(peer, server_side=True):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_rabbitmq_that_is_not_trusted_is_refused_at_once(certificates: Certificates):
    """With the remedy: waiting for a minute does not make it trusted."""
    with rabbitmq_until_the_handshake(certificates) as port:
        parameters = amqp.parameters(f"amqps://guest:canary@localhost:{port}/", name="test")
        with pytest.raises(TopologyError, match="is not trusted: name its authority in RABBITMQ_CA_FILE") as caught:
            amqp.connect(parameters, deadline_s=3600)
    assert "canary" not in str(caught.value)
