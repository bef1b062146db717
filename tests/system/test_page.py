"""The page as a process: it starts with the worker's settings, shows a worker, keeps its secrets, and ends in order."""

import re
from typing import Any

import pytest
import requests

from dev.waiting import wait_until
from tests.system import canaries
from tests.system.canaries import leaks
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def ask(method: str, url: str, **facts: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False  # a proxy of this machine is not for this
        return session.request(method, url, timeout=30, **facts)


def test_the_page_shows_the_worker(make_stack: MakeStack):
    """What it has answered, and no prompt, no answer, no key; read-only without a password; exit code 0 in the end."""
    stack, fake = make_stack()
    prompt, answer = canaries.text("prompt"), canaries.text("answer")
    choice = {"message": {"role": "assistant", "content": answer.value}, "finish_reason": "stop"}
    fake.script([{"body": {"id": "gen-1", "model": "vendor/served", "choices": [choice]}}])
    stack.start_worker()
    web = stack.start("web", "exec python -m console.web", CONSOLE_PORT=0)
    web.wait_for_output("The page is at")
    (url,) = re.findall(r"The page is at (\S+) \(read-only", web.output())
    stack.publish({"request_id": "r-1", "prompt": prompt.value}, b"no request")
    stack.answers(1)
    seen: list[str] = []

    def has_it() -> bool:
        seen.append(ask("GET", url).text)
        return bool(re.search(r"Requests answered</th><td class=\"n\">1<", seen[-1])) and "1 dead letter" in seen[-1]

    wait_until(has_it, timeout_s=60, what="a page with the answered request")
    everything = "".join([*seen, ask("GET", f"{url}dead").text, web.output()])
    assert leaks([prompt, answer], everything) == []
    assert [key for key in stack.environment["OPENROUTER_API_KEYS"].split(",") if key in everything] == []
    own = {"Origin": url.rstrip("/")}
    assert ask("POST", f"{url}dead/plan", data={"group": "x"}, headers=own).status_code == 403
    assert ask("GET", url, headers={"Host": "evil.example"}).status_code == 421
    web.terminate()
    assert web.wait() == 0
