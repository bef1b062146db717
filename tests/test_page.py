"""The page without a browser: who may ask what, what is on it, that it stays up. See also tests/long/test_page.py."""

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pika
import pytest
from starlette import datastructures
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from console.dead.letter import DeadLetter
from console.dead.queues import HeldLetter
from console.state import QueueState, State
from console.web import __main__ as command
from console.web import axis
from console.web.drawing import Drawing, said
from console.web.feed import Feed, Snapshot
from console.web.flow import nodes
from console.web.guard import HEADERS, Place
from console.web.notes import notes
from console.web.rings import rings
from console.web.sessions import LIFE_S, MOST_WRONG, WRONG_S, Sessions, TooManyGuesses
from console.web.source import Source
from gateway.errors import StoreUnavailable, TopologyError, Unroutable
from gateway.rabbitmq.topology import DEAD_REQUESTS
from gateway.settings import SettingsError, load_settings
from tests.page import PASSWORD, finding, page, state, waiting

URL = "http://127.0.0.1:8321"
DRAWING = Drawing(has_password=False)


class Queues:
    """Dead queues with letters of two reasons, which remember what was sent again."""

    def __init__(self, refuses: bool = False) -> None:
        self.sent: list[str] = []
        self.refuses = refuses
        self.held = [letter(f"r-{number}", f"no JSON at byte {number}") for number in range(3)]
        self.held.append(letter("r-9", "too large"))

    def __call__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def count(self, queue: str) -> int:
        return 0

    def letters(self, queue: str, wanted: Any, _limit: int) -> Iterator[HeldLetter]:
        if queue == DEAD_REQUESTS:
            yield from (HeldLetter(one, number) for number, one in enumerate(list(self.held)))

    def redrive(self, held: HeldLetter, *, dry: bool) -> str | None:
        if not dry:
            if self.refuses:
                raise Unroutable("The queue gemini.requests does not exist", queue="gemini.requests")
            self.held.remove(held.letter)
            self.sent.append(held.letter.id)
        return "gemini.requests"


def letter(name: str, reason: str) -> DeadLetter:
    headers = {"x-reason": reason, "x-error-code": "invalid_request"}
    body = b'{"prompt": "canary-prompt", "key": "canary-key"}'
    return DeadLetter(DEAD_REQUESTS, body, pika.BasicProperties(message_id=name, correlation_id=name, headers=headers))


class Visitor:
    """A browser that is logged in, on a page with dead letters."""

    def __init__(self, queues: Queues, *, password: str | None = PASSWORD, **facts: Any) -> None:
        self.client = TestClient(page(password=password, queues=queues, **facts), base_url=URL, follow_redirects=False)

    def log_in(self, typed: str = PASSWORD) -> Any:
        return self.post("/login", password=typed)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        return self.client.post(path, data=fields, headers={"Origin": URL, **(headers or {})})

    def field(self, path: str, name: str) -> str:
        return hidden(self.client.get(path).text, name)


def hidden(html: str, name: str) -> str:
    return re.findall(rf'name="{name}" value="([^"]+)"', html)[0]


@pytest.fixture
def queues() -> Queues:
    return Queues()


@pytest.fixture
def visitor(queues: Queues) -> Visitor:
    found = Visitor(queues)
    assert found.log_in().status_code == 303
    return found


def test_a_letter_is_sent_again_after_its_dry_run(visitor: Visitor, queues: Queues):
    """The dry run sends nothing; what it has shown is sent, once, and no letter more."""
    html = visitor.client.get("/dead").text
    assert ("3</span>" in html, "1</span>" in html) == (True, True)
    csrf = hidden(html, "csrf")
    planned = visitor.post("/dead/plan", csrf=csrf, group=hidden(html, "group"))
    assert ("3</span> would be sent again" in planned.text, queues.sent) == (True, [])
    queues.held.append(letter("r-4", "no JSON at byte 4"))  # came since
    plan = hidden(planned.text, "plan")
    sent = visitor.post("/dead/send", csrf=csrf, plan=plan)
    assert "3</span> sent again" in sent.text
    assert (queues.sent, [one.id for one in queues.held]) == (["r-0", "r-1", "r-2"], ["r-9", "r-4"])
    assert visitor.post("/dead/send", csrf=csrf, plan=plan).status_code == 409
    assert len(queues.sent) == 3


def test_what_its_queue_refuses_stays_and_is_said(queues: Queues):
    visitor = Visitor(queues)
    visitor.log_in()
    html = visitor.client.get("/dead").text
    plan = hidden(visitor.post("/dead/plan", csrf=hidden(html, "csrf"), group=hidden(html, "group")).text, "plan")
    queues.refuses = True
    sent = visitor.post("/dead/send", csrf=hidden(html, "csrf"), plan=plan)
    assert ("does not exist" in sent.text, queues.sent, len(queues.held)) == (True, [], 4)


#: What is wrong with a form that changes something.
FORGED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "no token": ({}, {"csrf": ""}),
    "a forged token": ({}, {"csrf": "x" * 43}),
    "a foreign origin": ({"Origin": "https://evil.example"}, {}),
    "a foreign port": ({"Origin": "http://127.0.0.1:9999"}, {}),
    "a hidden origin": ({"Origin": "null"}, {}),
    "no origin": ({"Origin": ""}, {}),
    "a foreign name": ({"Host": "evil.example", "Origin": "http://evil.example"}, {}),
    "an origin that is none": ({"Origin": "http://["}, {}),
    "too many fields": ({}, {f"f{number}": "x" for number in range(20)}),
    "too long a form": ({}, {"words": "x" * 5000}),
    "no session": ({"Cookie": "gemini_console=forged"}, {}),
    "a form of another kind": ({"Content-Type": "text/plain"}, {}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_form_changes_nothing(visitor: Visitor, queues: Queues, name: str):
    """Neither the dry run nor the sending, nor the end of the session; a good one works afterwards."""
    html = visitor.client.get("/dead").text
    csrf, group = hidden(html, "csrf"), hidden(html, "group")
    plan = hidden(visitor.post("/dead/plan", csrf=csrf, group=group).text, "plan")
    headers, fields = FORGED[name]
    for path in ("/dead/plan", "/dead/send", "/logout"):
        answer = visitor.post(path, headers, **{"csrf": csrf, "group": group, "plan": plan, **fields})
        assert answer.status_code in {401, 403, 421}, path
    assert queues.sent == []
    assert visitor.post("/dead/send", csrf=csrf, plan=plan).status_code == 200
    assert len(queues.sent) == 3


def test_every_address_that_changes_something_is_in_these_tests():
    """One that is added is to be forged as well."""
    app = page()
    changing = {one.path for one in app.routes if "POST" in (getattr(one, "methods", None) or ())}
    assert changing == {"/login", "/logout", "/dead/plan", "/dead/send"}


def test_without_a_password_the_page_is_read_only(queues: Queues):
    """It is seen by whoever is on this machine, and has no form."""
    visitor = Visitor(queues, password=None)
    html = visitor.client.get("/dead").text
    assert ("<form" in html, "read-only" in visitor.client.get("/").text) == (False, True)
    for path in ("/dead/plan", "/dead/send", "/logout", "/login"):
        assert visitor.post(path, csrf="x").status_code == 403
    assert queues.sent == []


def test_without_the_password_nothing_is_seen(queues: Queues):
    """But the way to log in, and its style."""
    visitor = Visitor(queues)
    for path in ("/", "/dead", "/nowhere"):
        answer = visitor.client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert visitor.client.get("/events").status_code == 401
    assert visitor.client.get("/login").status_code == visitor.client.get("/static/page.css").status_code == 200
    assert visitor.client.get("/static/../app.py").status_code != 200
    assert visitor.log_in("not the password").status_code == 403
    assert visitor.client.get("/").status_code == 303


def test_a_session_ends_when_it_is_ended(visitor: Visitor):
    """Its cookie is worth nothing afterwards, whoever has kept it."""
    kept = dict(visitor.client.cookies)
    assert visitor.client.get("/").status_code == 200
    assert visitor.post("/logout", csrf=visitor.field("/", "csrf")).status_code == 303
    visitor.client.cookies.update(kept)
    assert visitor.client.get("/").status_code == 303


@pytest.mark.parametrize(
    ("url", "headers", "secure"),
    [(None, {}, False), (None, {"X-Forwarded-Proto": "https"}, True), ("https://console.example.org", {}, True)],
)
def test_the_cookie_is_for_this_page_only(queues: Queues, url: str | None, headers: dict[str, str], secure: bool):
    """Not for scripts, not for requests of other sites; encrypted where the page is."""
    visitor = Visitor(queues, place=Place("127.0.0.1", url))
    cookie = visitor.post("/login", headers, password=PASSWORD).headers["set-cookie"]
    assert ("HttpOnly" in cookie, "SameSite=strict" in cookie, "Secure" in cookie) == (True, True, secure)


def test_programs_read_with_http_basic(queues: Queues):
    """They read, and change nothing."""
    visitor = Visitor(queues)
    right, wrong = (
        {"Authorization": f"Basic {base64.b64encode(f'any:{typed}'.encode()).decode()}"} for typed in (PASSWORD, "no")
    )
    assert visitor.client.get("/", headers=right).status_code == 200
    for headers in (wrong, {"Authorization": "Basic ???"}):
        assert visitor.client.get("/", headers=headers).status_code == 401
    assert visitor.post("/dead/plan", right, group="x").status_code == 401


def test_guesses_are_few(queues: Queues):
    """Then not even the right one is looked at, by whatever way; who is logged in stays."""
    inside, visitor = Visitor(queues), Visitor(queues)
    inside.log_in()
    visitor.client = TestClient(inside.client.app, base_url=URL, follow_redirects=False)
    for _ in range(MOST_WRONG):
        assert visitor.log_in("guess").status_code == 403
    assert visitor.log_in().status_code == 429
    basic = {"Authorization": f"Basic {base64.b64encode(f':{PASSWORD}'.encode()).decode()}"}
    assert visitor.client.get("/", headers=basic).status_code == 429
    assert inside.client.get("/").status_code == 200


def test_guesses_are_looked_at_again_and_sessions_end_with_time():
    now = [0.0]
    sessions = Sessions(PASSWORD, clock=lambda: now[0])
    for _ in range(MOST_WRONG):
        assert sessions.log_in("guess") is None
    with pytest.raises(TooManyGuesses):
        sessions.log_in(PASSWORD)
    now[0] += WRONG_S
    session = sessions.log_in(PASSWORD)
    assert session is not None
    assert (sessions.find(session.token), session.token in repr(session)) == (session, False)
    now[0] += LIFE_S
    assert sessions.find(session.token) is None


@pytest.mark.parametrize(
    ("listens", "url", "host", "status"),
    [
        ("127.0.0.1", None, "127.0.0.1:8321", 200),
        ("127.0.0.1", None, "localhost:1234", 200),
        ("::1", None, "[::1]:8321", 200),
        ("127.0.0.1", None, "evil.example:8321", 421),
        ("127.0.0.1", None, "", 421),
        ("127.0.0.1", None, "[", 421),
        ("127.0.0.1", "https://console.example.org", "console.example.org", 200),
        ("127.0.0.1", "https://console.example.org", "evil.example", 421),
        ("0.0.0.0", None, "anything.herokuapp.com", 200),  # noqa: S104 - nothing is bound here
    ],
)
def test_on_this_machine_only_its_own_names_are_answered(
    queues: Queues, listens: str, url: str | None, host: str, status: int
):
    """A name of somebody else that leads here, for as long as a browser believes it, is refused."""
    visitor = Visitor(queues, place=Place(listens, url))
    assert visitor.client.get("/login", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("host", ["anything/static/", "anything/healthz?", "anything/login#"])
def test_a_host_header_is_no_path(queues: Queues, monkeypatch: pytest.MonkeyPatch, host: str):
    """Starlette before 1.0 made its URL of both; that would let the visitor in without the password."""

    def glued(request: Request) -> datastructures.URL:
        return datastructures.URL(f"http://{request.headers['host']}{request.scope['path']}")

    monkeypatch.setattr(Request, "url", property(glued))
    app = page(queues=queues, place=Place("0.0.0.0", None), health=("/healthz",))  # noqa: S104 - nothing is bound here
    client = TestClient(app, base_url="http://10.0.0.7", follow_redirects=False)
    assert client.get("/dead", headers={"Host": host}).status_code == 303


def test_another_site_embeds_nothing_of_it(queues: Queues):
    """A link from elsewhere leads to the page; a picture, a frame or a script from elsewhere gets nothing."""
    visitor = Visitor(queues, password=None)
    asked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert visitor.client.get("/dead", headers=asked).status_code == 403
    assert visitor.client.get("/dead", headers={**asked, "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_every_answer_has_its_headers(visitor: Visitor):
    """Also a refusal; and nothing inline that the policy would refuse."""
    for path, headers in (("/", {}), ("/nowhere", {}), ("/static/page.css", {}), ("/", {"Host": "evil.example"})):
        answer = visitor.client.get(path, headers=headers)
        assert HEADERS.items() <= dict(answer.headers).items() | HEADERS.items()
        assert {name.lower() for name in HEADERS} <= set(answer.headers)
    html = visitor.client.get("/").text + visitor.client.get("/dead").text
    assert re.findall(r"\sstyle=|\son\w+=|<style|<script(?! src=)|javascript:|https?://", html) == []


def hostile_state() -> State:
    """Every text that others choose is hostile."""
    evil = '<script>alert("x")</script>' + "A" * 5000
    return state(
        waits=[
            waiting(1, f"gemini.generate.delay.60s{evil}", 5.0).__class__(
                "d", evil, f"gemini.generate.delay.60s{evil}", 5.0, evil, evil, evil, 1
            )
        ],
        queues=[QueueState(f"gemini.generate.delay.60s{evil}", "key wait", 3, 0), QueueState(evil, "answers", 3, 0)],
        keys=[finding(1).__class__("****1", evil, "limited", evil, None, 9.0, 1, 10, 0, None, None, None, None)],
        troubles=[evil],
    )


def test_what_others_choose_is_escaped_and_cut(queues: Queues):
    visitor = Visitor(queues, look=hostile_state)
    visitor.log_in()
    queues.held.append(letter("<b>id</b>", "<img src=x onerror=y>" + "A" * 5000))
    html = visitor.client.get("/").text + visitor.client.get("/dead").text
    assert ("<script>" in html, "<img" in html, "<b>" in html, "A" * 400 in html) == (False,) * 4
    assert "&lt;script&gt;" in html


def test_no_body_and_no_secret_is_on_it(visitor: Visitor):
    """What looks like a key is masked, whoever has written it."""
    html = visitor.client.get("/").text + visitor.client.get("/dead").text
    assert ("canary" in html, PASSWORD in html) == (False, False)
    assert said("key sk-or-v1-0123456789abcdef is used up") == "key **** is used up"


def test_a_thousand_keys_and_a_hundred_thousand_waits_are_a_small_page(visitor: Visitor):
    """Those that rest and are busy come first, the others are a count."""
    html = visitor.client.get("/").text
    assert len(html) < 120_000
    assert ("100,000" in html, "more, all ready and not used" in html) == (True, True)
    found = rings(state().keys, time.time())
    assert [ring.state for ring in found.shown[:4]] == ["refused", "limited", "limited", "limited"]
    assert len(found.shown) + len(found.more) <= 96
    assert rings([finding(1), finding(2)], 0.0).others is None


def test_others_add_their_addresses_behind_the_same_door(queues: Queues):
    """Health is for everybody, by whatever name; the rest needs the password."""
    also = [Route(path, lambda _request: PlainTextResponse("there")) for path in ("/healthz", "/metrics")]
    app = page(queues=queues, also=also, health=("/healthz",))
    client = TestClient(app, base_url="http://10.0.0.7", follow_redirects=False)
    assert client.get("/healthz").text == "there"
    assert client.get("/metrics").status_code == 421
    local = {"Host": "localhost"}
    assert client.get("/metrics", headers=local).status_code == 303
    basic = {"Authorization": f"Basic {base64.b64encode(f':{PASSWORD}'.encode()).decode()}"}
    assert client.get("/metrics", headers={**local, **basic}).text == "there"


def test_the_axis_is_logarithmic_from_now_to_a_day():
    assert [axis.place(seconds) for seconds in (-5.0, 0.0, 86_400.0, 1e9)] == [0.0, 0.0, 1.0, 1.0]
    assert axis.place(60.0) == pytest.approx(0.36, abs=0.01)
    (dot,) = axis.dots([3600.0] * 16)
    assert (dot.count, dot.size) == (16, 2.0)
    assert [axis.length_s(name) for name in ("gemini.generate.delay.2.5s", "gemini.generate")] == [2.5, None]


def test_what_is_wrong_is_said_the_worst_first():
    """And when nothing is, that."""
    levels = [note.level for note in notes(Snapshot(state(), 0.0, 0.0))]
    assert (levels[0], levels == sorted(levels)) == ("bad", True)
    well = state(workers=[state().workers[0]], keys=[finding(1)], queues=[])
    assert [note.text for note in notes(Snapshot(well, 0.0, 0.0))] == ["All is well."]


def feed_of(look: Any, **facts: Any) -> Feed:
    return Feed(look, DRAWING.pieces, **{"rest": lambda: None, "every_s": 0.01, "patience_s": 60.0, **facts})


def test_one_look_serves_every_viewer_and_none_is_taken_when_nobody_looks():
    """And the connection is given back then."""
    looks: list[int] = []
    permits = threading.Semaphore(0)

    def look() -> State:
        permits.acquire(timeout=60)
        looks.append(1)
        return state()

    async def play() -> None:
        rested, loop = asyncio.Event(), asyncio.get_running_loop()
        feed = feed_of(look, rest=lambda: loop.call_soon_threadsafe(rested.set))
        views = [feed.views() for _ in range(20)]
        for count in (1, 2, 3):
            waiting = [asyncio.ensure_future(anext(view)) for view in views]
            await asyncio.sleep(0)  # each waits now
            permits.release()
            await asyncio.wait_for(asyncio.gather(*waiting), 60)
            assert len(looks) == count
        for view in views:
            await view.aclose()
        permits.release()  # for the one that has begun
        await asyncio.wait_for(rested.wait(), 60)
        assert len(looks) <= 4

    asyncio.run(play())


def test_while_the_store_is_away_the_page_says_since_when_it_is_old():
    """It keeps the last figures, and goes on when the store is back."""
    troubles: list[Exception] = []

    def look() -> State:
        if troubles:
            raise troubles[0]
        return state()

    async def play() -> None:
        feed = feed_of(look)
        view = feed.views()

        async def until(text: str, *, gone: bool = False) -> dict[str, str]:
            async with asyncio.timeout(30):
                while True:
                    pieces = dict(await anext(view))
                    if (text in pieces["headline"]) is not gone:
                        return pieces

        await until("Figures of")
        for error in (StoreUnavailable("Redis cannot be used"), ValueError("a bug")):
            troubles[:] = [error]
            text = "Redis cannot be used" if isinstance(error, StoreUnavailable) else "A fault of the page (ValueError)"
            assert "1,284" in (await until(text))["flow"]
        troubles.clear()
        await until("A fault of the page", gone=True)
        await view.aclose()

    asyncio.run(play())


def test_a_state_that_cannot_be_drawn_is_said():
    """A fault of ours ends no view."""

    def draw(snapshot: Snapshot) -> Any:
        if snapshot.state is not None:
            raise KeyError("a bug")
        return DRAWING.pieces(snapshot)

    async def play() -> str:
        return (await Feed(state, draw, lambda: None).pieces(30.0))["headline"]

    assert "A fault of the page (KeyError)" in asyncio.run(play())
    assert rings([finding(1, "a state of tomorrow")], 0.0).shown[0].tone == "wait"


def test_who_comes_while_the_connections_are_closed_is_served():
    """Closing may take long; whoever looks from then on has a view that is refreshed."""
    closes, closing = threading.Event(), threading.Event()
    looks: list[int] = []

    def look() -> State:
        looks.append(1)
        return state()

    def rest() -> None:
        closing.set()
        assert closes.wait(60)

    async def play() -> None:
        feed = feed_of(look, rest=rest)
        first = feed.views()
        await anext(first)
        await first.aclose()
        assert await asyncio.to_thread(closing.wait, 60)
        seen = len(looks)
        second = feed.views()
        await anext(second)
        closes.set()
        async with asyncio.timeout(60):
            while len(looks) == seen:
                await anext(second)
        await second.aclose()

    asyncio.run(play())


def test_a_look_that_hangs_holds_up_no_page():
    """Nothing is there yet, and the page says so; then it has the figures."""
    hangs = threading.Event()

    def look() -> State:
        hangs.wait(30)
        return state()

    async def play() -> None:
        feed = feed_of(look, patience_s=0.01)
        assert "takes long" in (await feed.pieces(20.0))["headline"]
        hangs.set()
        async with asyncio.timeout(30):
            async for pieces in feed.views():
                if "1,284" in pieces["flow"]:
                    return

    asyncio.run(play())


def test_while_rabbitmq_is_away_its_queues_are_those_of_the_last_time():
    """And it is said of when they are."""
    snapshot = Snapshot().renewed(state(), 1000.0).renewed(state(queues=None, troubles=["RabbitMQ is away"]), 2000.0)
    pieces = DRAWING.pieces(snapshot)
    assert ("1,284" in pieces["flow"], "Queues as of 00:16:40 UTC" in pieces["headline"]) == (True, True)
    never = DRAWING.pieces(Snapshot().renewed(state(queues=None, troubles=["RabbitMQ is away"]), 2000.0))
    assert ("?" in never["flow"], "Queues are not known" in never["headline"]) == (True, True)


class Connection:
    """Of RabbitMQ, as pika's is: one that has ended is of no use."""

    is_open = True

    def process_data_events(self, _time_limit: float) -> None:
        if not self.is_open:
            raise ValueError("Timeout closed before call")

    def close(self) -> None:
        self.is_open = False


def test_a_connection_stays_while_somebody_looks_and_is_replaced_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Also when RabbitMQ was away in between."""
    opened: list[Connection] = []
    used: list[object] = []
    away = False

    def connect(_settings: object, *, name: str) -> Connection:
        if away:
            raise TopologyError("RabbitMQ is away")
        opened.append(Connection())
        return opened[-1]

    def build(_here: object, connected: Any) -> None:
        with suppress(TopologyError), connected(settings) as connection:
            used.append(connection)

    monkeypatch.setattr("console.web.source.connect", connect)
    monkeypatch.setattr("console.web.source.build", build)
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "state.sqlite3"))
    settings = load_settings(need_keys=False)
    source = Source(settings)
    source.look()
    source.look()
    assert used == [opened[0], opened[0]]
    opened[0].is_open, away = False, True
    source.look()
    source.look()
    away = False
    source.look()
    assert used[2:] == [opened[1]]
    source.close()
    assert not opened[1].is_open


def test_viewers_get_only_what_has_changed():
    """Everything at first; then the pieces that are not as they were."""
    first, second = asyncio.run(two_events())
    assert {"flow", "headline", "news"} <= set(first)
    assert set(second) <= {"headline", "keys", "waits", "workers", "figures", "flow"}
    assert "news" not in second


async def two_events() -> list[dict[str, str]]:
    """As a browser gets them, without one."""
    app, received = page(password=None), []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/events",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            received.append(json.loads(message["body"].decode().removeprefix("data: ")))
        if len(received) == 2:
            raise OSError("the browser has left")

    with pytest.raises(BaseException):  # noqa: B017 - whatever Starlette makes of it
        await asyncio.wait_for(app(scope, receive, send), 30)
    return received


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"CONSOLE_HOST": "0.0.0.0"}, "does not listen on 0.0.0.0 without a password"),  # noqa: S104
        ({"CONSOLE_HOST": "192.0.2.7"}, "CONSOLE_PASSWORD"),
        ({"CONSOLE_HOST": "example.org"}, "CONSOLE_PASSWORD"),
        ({"CONSOLE_URL": "https://console.example.org"}, "CONSOLE_PASSWORD"),
        ({"CONSOLE_PASSWORD": "short"}, "give 12 characters or more"),
        ({"PORT": "many"}, "CONSOLE_PORT: give a whole number"),
    ],
)
def test_it_does_not_listen_where_others_reach_it_without_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, str], says: str
):
    """One line that says what to do, and the exit code of bad settings."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert command.main() == 78
    err = capsys.readouterr().err
    assert (says in err, "short" in err) == (True, False)


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with command.listen("127.0.0.1", 0) as taken:
        monkeypatch.setenv("CONSOLE_PORT", str(taken.getsockname()[1]))
        assert command.main() == 69
    assert "CONSOLE_PORT" in capsys.readouterr().err


def test_the_password_is_among_the_secrets_that_are_masked(monkeypatch: pytest.MonkeyPatch):
    """And Heroku's PORT is the port."""
    monkeypatch.setenv("CONSOLE_PASSWORD", PASSWORD)
    monkeypatch.setenv("PORT", "5001")
    settings = load_settings(need_keys=False)
    assert (PASSWORD in settings.secrets(), PASSWORD in repr(settings), settings.console_port) == (True, False, 5001)
    assert command.place_of(settings).is_this_machine


def test_a_place_that_others_reach_needs_a_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HOST", "0.0.0.0")  # noqa: S104 - nothing is bound here
    with pytest.raises(SettingsError):
        command.place_of(load_settings(need_keys=False))
    monkeypatch.setenv("CONSOLE_PASSWORD", PASSWORD)
    assert not command.place_of(load_settings(need_keys=False)).is_this_machine


def test_batch_and_who_takes_turns_are_among_the_requests():
    """They wait for a worker as well, behind others."""
    there = [
        QueueState("gemini.requests", "requests", 4, 2),
        QueueState("gemini.batch", "batch", 1200, 0),
        QueueState("gemini.generate.fair.0", "in turn", 6, 0),
    ]
    drawn = nodes(state(queues=there))
    (node,) = [one for one in drawn if one.name == "requests"]
    assert (node.count, node.remark) == ("1,210", "wait; 1,200 of them batch")
