"""Bodies that nobody in his right mind would send, and a few that somebody would; the same for the same seed."""

import json
import random
from collections.abc import Callable
from typing import Any

Random = random.Random

#: Values that are wrong for most fields, or hard for some reader.
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**18,
    10**30,
    1e308,
    "",
    " \t\n",
    "x" * 300,
    "\x00\x1b[31m\u2028\u202e",
    "\ud800",
    "ü🦔" * 20,
    "../../etc/passwd",
    "'; DROP TABLE ledger; --",
    "{{7*7}}${jndi:ldap://x}",
    [],
    [[]],
    {},
    {"a": None},
    ["text"],
)

FIELDS = (
    "request_id",
    "prompt",
    "model",
    "parameters",
    "messages",
    "user",
    "session_id",
    "system_instruction",
    "metadata",
    "callback_queue",
    "timestamp",
    "retry_count",
    "expires_at",
    "expires_in_s",
    "priority",
    "unknown",
)

PARAMETERS = (
    *("temperature", "top_p", "top_k", "max_output_tokens", "stop", "seed", "response_format", "reasoning", "tools"),
    *("tool_choice", "models", "provider"),
)

CALLBACKS = (
    "gemini.responses",
    "hostile.answers",
    "hostile.ümläut",
    "gemini.requests",
    "gemini.generate",
    "gemini.generate.delay.60s",
    "gemini.callbacks",
    "gemini.requests.dead",
    "amq.direct",
    "amq.rabbitmq.reply-to",
    "x" * 256,
    "ü" * 200,
    "line\nbreak",
    "",
)


def good(rng: Random) -> dict[str, Any]:
    return {
        "request_id": f"g-{rng.getrandbits(64):x}",
        "prompt": "Hello " * rng.randint(1, 20),
        "parameters": {"temperature": rng.random()},
        "metadata": {"n": rng.randint(0, 9)},
    }


def one_odd_field(rng: Random) -> bytes:
    fields = good(rng)
    fields[rng.choice(FIELDS)] = rng.choice(ODD)
    return json.dumps(fields).encode()


def odd_parameters(rng: Random) -> bytes:
    return json.dumps(good(rng) | {"parameters": {rng.choice(PARAMETERS): rng.choice(ODD)}}).encode()


def odd_everything(rng: Random) -> bytes:
    return json.dumps({name: rng.choice(ODD) for name in rng.sample(FIELDS, rng.randint(0, len(FIELDS)))}).encode()


def odd_callback(rng: Random) -> bytes:
    return json.dumps(good(rng) | {"callback_queue": rng.choice(CALLBACKS)}).encode()


def cut(rng: Random) -> bytes:
    body = json.dumps(good(rng)).encode()
    return body[: rng.randrange(len(body))]


def flipped(rng: Random) -> bytes:
    body = bytearray(json.dumps(good(rng)).encode())
    for _ in range(rng.randint(1, 5)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body)


def noise(rng: Random) -> bytes:
    return rng.randbytes(rng.randint(0, 400))


def other_json(rng: Random) -> bytes:
    return json.dumps(rng.choice(ODD)).encode()


def another_encoding(rng: Random) -> bytes:
    return json.dumps(good(rng)).encode(rng.choice(("utf-8-sig", "utf-16", "utf-32", "utf-7")))


def deep(rng: Random) -> bytes:
    depth = rng.choice((31, 33, 500, 100_000))
    return b'{"request_id": "deep", "prompt": "x", "metadata": {"a": ' + b"[" * depth + b"]" * depth + b"}}"


def numbers(rng: Random) -> bytes:
    number = rng.choice(("9" * 5000, "-" + "9" * 400, "1e999", "NaN", "Infinity", "-Infinity", "0x10", "01", "1_000"))
    field = rng.choice(('"metadata": {"n": %s}', '"retry_count": %s', '"parameters": {"temperature": %s}'))
    return ('{"request_id": "numbers", "prompt": "x", ' + field % number + "}").encode()


def twice_the_same_key(rng: Random) -> bytes:
    return b'{"request_id": "a", "request_id": "b", "prompt": "x", "prompt": "y", "callback_queue": "gemini.generate"}'


def large(rng: Random) -> bytes:
    return json.dumps(good(rng) | {"prompt": "x" * rng.choice((100_000, 1_000_000))}).encode()


def too_large(rng: Random) -> bytes:
    return json.dumps(good(rng) | {"prompt": "x" * (8 * 1024 * 1024 + 1)}).encode()


#: Each kind with how many of ten thousand are of it.
KINDS: tuple[tuple[Callable[[Random], bytes], int], ...] = (
    (one_odd_field, 2600),
    (odd_parameters, 900),
    (odd_everything, 1000),
    (odd_callback, 900),
    (cut, 1000),
    (flipped, 1400),
    (noise, 700),
    (other_json, 300),
    (another_encoding, 300),
    (deep, 60),
    (numbers, 400),
    (twice_the_same_key, 100),
    (lambda rng: json.dumps(good(rng)).encode(), 320),
    (large, 17),
    (too_large, 3),
)


def bodies(seed: int, *, share: float = 1.0) -> list[bytes]:
    """That share of ten thousand, one of each kind at least, in an order that the seed decides."""
    rng = random.Random(seed)
    made = [kind(rng) for kind, count in KINDS for _ in range(max(1, round(count * share)))]
    rng.shuffle(made)
    return made


def properties(rng: Random) -> dict[str, Any]:
    """AMQP properties that somebody could smuggle something in with."""
    return rng.choice(
        (
            {},
            {},
            {"reply_to": rng.choice(("hostile.answers", "gemini.generate", "amq.direct", "line\nbreak"))},
            {"correlation_id": rng.choice(("c-1", "x" * 255, "a\nb\x1b[31m"))},
            {"headers": {"CC": ["hostile.smuggled"], "BCC": ["hostile.smuggled"], "x-death": [{"count": 9}]}},
            {"headers": {"x-delivery-count": 10**9, "nested": {"a": [1, {"b": None}]}}},
            {"content_type": "text/evil", "content_encoding": "gzip", "type": "x" * 200, "priority": 9},
        )
    )


def forged(rng: Random, queue: str) -> bytes:
    """A Dramatiq message by somebody who knows what they look like."""
    message: dict[str, Any] = {
        "queue_name": queue,
        "actor_name": "generate",
        "args": [{"v": 1, "request": {"request_id": "x", "prompt": "x", "callback_queue": "amq.x"}, "received_at": 0}],
        "kwargs": {},
        "options": {},
        "message_id": "forged",
        "message_timestamp": 1,
    }
    changes: tuple[dict[str, Any], ...] = (
        {"queue_name": "other"},
        {"queue_name": None},
        {"actor_name": "os.system"},
        {"actor_name": ["generate"]},
        {"args": []},
        {"args": [None]},
        {"args": [{}, {}]},
        {"args": "generate"},
        {"args": [{"v": 99, "request": {}}]},
        {"message_id": 7},
        {"message_id": "x" * 1000},
        {"message_timestamp": "now"},
        {"options": None, "args": []},
        {"options": {"max_retries": 10**9, "on_success": "os.system"}, "actor_name": "nobody"},
    )
    text = json.dumps(message | rng.choice(changes)).encode()
    return rng.choice((text, text[: len(text) // 2], b"null", b"[]", b"\xff", b""))
