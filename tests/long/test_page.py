"""The page in a real Chromium, beside a worker that runs: what an operator sees, does, and cannot do."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dev import debian
from dev.launcher import Process
from dev.rabbitmq import Node, Server
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient, running
from tests.system import canaries
from tests.system.canaries import Canary, leaks

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

PASSWORD = "a long enough password"

#: How long a figure may take, in milliseconds: workers report every 5 s, and the machine may be busy.
PATIENCE_MS = 60_000.0

#: Widths in CSS pixels: a phone, a desk.
WIDTHS = (360, 1280)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    debian.main("chromium", "chromium")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        # As root Chromium runs without its sandbox or not at all; it sees our own page only.
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Site:
    """A worker, its provider and the page; what is planted must not be on the page."""

    stack: Stack
    fake: FakeClient
    web: Process
    key: Canary
    prompt: Canary = field(default_factory=lambda: canaries.text("prompt"))
    answer: Canary = field(default_factory=lambda: canaries.text("answer"))

    @property
    def url(self) -> str:
        return re.findall(r"The page is at (http://\S+?)/ ", self.web.output())[0]

    def ask(self, **fields: Any) -> str:
        request_id = str(uuid.uuid4())
        self.stack.publish({"request_id": request_id, "prompt": self.prompt.value, **fields})
        return request_id


def site(cleanup: ExitStack, folder: Path, url: str) -> Site:
    key = canaries.key("key")
    fake = cleanup.enter_context(running(keys=[key.value]))
    settings = {"OPENROUTER_API_KEYS": key.value, "CONSOLE_PASSWORD": PASSWORD, "CONSOLE_PORT": 0}
    stack = Stack.apart(url, fake.base_url, folder, KEYS_MAX_PER_MINUTE=1000, **settings)
    cleanup.callback(stack.close)
    stack.start_worker()
    web = stack.start("web", "exec python -m console.web")
    web.wait_for_output("The page is at")
    return Site(stack, fake, web, key)


@pytest.fixture(scope="module")
def here(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as cleanup:
        url = cleanup.enter_context(rabbitmq_server.fresh_vhost())
        yield site(cleanup, tmp_path_factory.mktemp("page"), url)


class Operator:
    """Somebody at a browser, who remembers everything that came."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.seen: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def log_in(self) -> None:
        self.page.goto(f"{self.url}/")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("heading", name="Flow")).to_be_visible()

    def look(self) -> str:
        """All that is there now."""
        self.seen.append(self.page.content())
        return self.seen[-1]

    def sees(self, piece: str, text: str | re.Pattern[str]) -> None:
        """Until it is there, without a reload."""
        expect(self.page.locator(f"[data-piece={piece}]")).to_contain_text(text, timeout=PATIENCE_MS)
        self.look()

    def figure(self, name: str) -> str:
        """Of the last hour."""
        return self.page.get_by_role("row", name=name).get_by_role("cell").first.inner_text()


@pytest.fixture
def operator(browser: Browser, here: Site) -> Iterator[Operator]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Operator(context.new_page(), here.url)
    context.close()


def test_an_operator_walks_the_page(operator: Operator, here: Site):
    """A request goes through live, a key rests and comes back, a letter goes back after its dry run; nothing leaks."""
    page = operator.page
    operator.log_in()
    page.evaluate("window.same = true")  # gone after a reload

    here.fake.script([{"prompt": here.prompt.core, "gate": "answer", "body": completion(here.answer.value)}])
    here.ask()
    operator.sees("flow", "1 of 8")
    here.fake.open_gate("answer")
    here.stack.answers(1)
    operator.sees("flow", "0 of 8")
    wait_until(lambda: operator.figure("Requests answered") == "1", timeout_s=60, what="an answer that is counted")

    here.fake.script([{"status": 429, "headers": {"Retry-After": "20"}, "times": 1}])
    waiting = here.ask()
    operator.sees("keys", "limited")
    operator.sees("keys", "back in")
    operator.sees("waits", "gemini.generate.delay.")
    page.get_by_text("The next ones that are due").click()
    operator.sees("waits", waiting)
    operator.sees("keys", re.compile(r"\d ready"))
    here.stack.answers(1, timeout_s=60)
    operator.sees("waits", "Nobody waits")
    assert page.evaluate("window.same") is True

    here.stack.publish(json.dumps({"prompt": 7, "words": here.prompt.value}).encode())
    operator.sees("headline", "1 dead letter")
    page.get_by_role("link", name="See them by reason").click()
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("heading", name="1 would be sent again")).to_be_visible()
    operator.look()
    assert here.stack.depth("gemini.requests.dead") == 1
    page.get_by_role("button", name="Send 1 again").click()
    expect(page.get_by_role("heading", name="1 sent again")).to_be_visible()
    operator.look()
    here.stack.wait_for_depth("gemini.requests.dead", 1)  # the worker has refused it once more
    page.get_by_role("link", name="Dead letters").last.click()
    expect(page.get_by_text("Sent again before")).to_be_visible()

    everything = "".join([*operator.seen, operator.look(), page.request.get(f"{here.url}/").text(), here.web.output()])
    assert waiting in everything
    assert leaks([here.key, here.prompt, here.answer], everything) == []
    assert PASSWORD not in everything
    assert operator.complaints == []


def completion(content: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "gen-1", "model": "vendor/served", "choices": [choice], "usage": {"prompt_tokens": 1}}


def test_strangers_change_nothing(browser: Browser, operator: Operator, here: Site):
    """Without the password, from a foreign page in the operator's own browser, or with a forged token."""
    here.stack.publish(b"no request")
    here.stack.wait_for_depth("gemini.requests.dead", 1, or_more=True)
    operator.log_in()
    page = operator.page
    page.goto(f"{here.url}/dead")
    group = page.locator("input[name=group]").first.get_attribute("value")
    csrf = page.locator("input[name=csrf]").last.get_attribute("value")
    before = page.locator(".total").all_inner_texts()
    assert group is not None
    assert csrf is not None

    stranger = browser.new_context()
    answer = stranger.request.post(
        f"{here.url}/dead/plan", form={"csrf": csrf, "group": group}, headers={"Origin": here.url}
    )
    assert answer.status == 401
    stranger.close()

    forged = page.evaluate(
        """async ([group]) => (await fetch("/dead/plan", {method: "POST",
           body: new URLSearchParams({csrf: "forged", group})})).status""",
        [group],
    )
    assert forged == 403

    # A page of another site, with a form that has every field right: localhost is another site than 127.0.0.1.
    foreign = page.context.new_page()
    foreign.route(
        "http://evil.example/**",
        lambda route: route.fulfill(body=attack(here.url, group, csrf), content_type="text/html"),
    )
    with foreign.expect_navigation(url=f"{here.url}/dead/plan") as sent:
        foreign.goto("http://evil.example/")
    assert sent.value.status == 403
    foreign.close()

    page.goto(f"{here.url}/dead")
    assert page.locator(".total").all_inner_texts() == before


def attack(url: str, group: str, csrf: str) -> str:
    fields = f'<input name="group" value="{group}"><input name="csrf" value="{csrf}">'
    form = f'<form id="f" method="post" action="{url}/dead/plan">{fields}</form>'
    return f"{form}<script>setTimeout(() => document.getElementById('f').submit(), 100)</script>"


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_for_every_screen_and_every_reader(operator: Operator, here: Site, width: int):
    """No sideways scrolling, landmarks, headings in order, names for all pictures and controls, a visible focus."""
    page = operator.page
    page.set_viewport_size({"width": width, "height": 800})
    operator.log_in()
    operator.sees("workers", "ready")
    for path in ("/", "/dead"):
        page.goto(f"{here.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("main").count() == page.locator("h1").count() == page.locator("header").count() == 1
        levels = page.locator("h1, h2, h3").evaluate_all("found => found.map(one => Number(one.tagName[1]))")
        assert levels == sorted(levels)
        assert page.evaluate(NAMELESS) == []
    page.goto(f"{here.url}/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


#: Pictures and controls that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll("svg, a, button, input:not([type=hidden]), table th, summary")]
    .filter(one => one.getClientRects().length && !one.closest("[aria-hidden=true]"))
    .filter(one => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length))
    .map(one => one.outerHTML)"""


def test_light_and_dark_both_can_be_read(operator: Operator, here: Site):
    """By the contrast of all texts that are shown: 4.5 to 1, as WCAG AA asks."""
    operator.log_in()
    operator.sees("workers", "ready")
    grounds = []
    for scheme in ("light", "dark"):
        operator.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        grounds.append(operator.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert operator.page.evaluate(FAINT) == []
    assert grounds[0] != grounds[1]


#: Texts with less contrast to the nearest ground behind them.
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (parts(colour).length === 3 || parts(colour)[3] > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *:not(svg *)")]
    .filter(one => one.getClientRects().length && [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(one => [one.outerHTML.slice(0, 90), light(getComputedStyle(one).color), light(ground(one))])
    .filter(([, a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5);
}"""


def test_focus_and_open_parts_outlive_new_figures(operator: Operator, here: Site):
    """What somebody is at is not taken away by the next figures."""
    page = operator.page
    operator.log_in()
    operator.sees("workers", "ready")
    page.get_by_text("Every queue with something in it").press("Enter")
    here.stack.put("gemini.responses", b"{}", b"{}", b"{}")
    expect(page.get_by_role("row", name="gemini.responses answers 3")).to_be_visible(timeout=PATIENCE_MS)
    assert page.locator("#queues").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_the_page_stays_up_without_rabbitmq(browser: Browser, own_rabbitmq: Node, tmp_path: Path):
    """Frozen, and then gone: it says since when its figures are old, loads in a second, and goes on by itself."""
    with ExitStack() as cleanup:
        here = site(cleanup, tmp_path, own_rabbitmq.url)
        context = browser.new_context()
        cleanup.callback(context.close)
        operator = Operator(context.new_page(), here.url)
        operator.log_in()
        operator.sees("workers", "ready")
        own_rabbitmq.freeze()
        operator.sees("headline", re.compile("Figures of .* take long to answer|Queues as of"))
        wait_until(lambda: loads_within(operator, 1.0), timeout_s=60, what="a page in a second")
        own_rabbitmq.thaw()
        operator.sees("headline", "All is well")
        own_rabbitmq.kill()
        operator.sees("headline", "Queues as of")
        wait_until(lambda: loads_within(operator, 1.0), timeout_s=60, what="a page in a second")
        own_rabbitmq.start()
        expect(operator.page.locator("[data-piece=headline]")).not_to_contain_text("Queues as of", timeout=90_000)


def loads_within(operator: Operator, seconds: float) -> bool:
    operator.page.reload()
    took = operator.page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd")
    return bool(took < 1000 * seconds)


def test_a_page_whose_server_is_gone_says_so(browser: Browser, rabbitmq_server: Server, tmp_path: Path):
    """And is live again when the server is back, after the way in."""
    with ExitStack() as cleanup:
        url = cleanup.enter_context(rabbitmq_server.fresh_vhost())
        here = site(cleanup, tmp_path, url)
        context = browser.new_context()
        cleanup.callback(context.close)
        operator = Operator(context.new_page(), here.url)
        operator.log_in()
        operator.sees("headline", "Figures of")
        here.web.terminate()
        assert here.web.wait() == 0
        expect(operator.page.locator("#lost")).to_contain_text("No word from the server", timeout=PATIENCE_MS)
        port = here.url.rpartition(":")[2]
        here.stack.start("web", "exec python -m console.web", CONSOLE_PORT=port).wait_for_output("The page is at")
        expect(operator.page.get_by_label("Password")).to_be_visible(timeout=PATIENCE_MS)
