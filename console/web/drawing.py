"""Draws: from a state to pieces of HTML, and whole pages from templates. Nothing of it is a prompt, an answer or a key.

Every text is escaped by the template engine; what others have chosen goes through `said` first, which cuts it, keeps it
on one line and masks what looks like a secret.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from console.screen import number, span
from console.state import State
from console.web import axis, figures, flow, rings
from console.web.feed import Snapshot
from console.web.notes import notes
from gateway.reporting.redaction import escape_controls, redact

TEMPLATES = Path(__file__).parent / "templates"

#: The parts of the page that change by themselves; each is a template of its own.
PIECES = ("headline", "flow", "waits", "keys", "figures", "failures", "workers")

#: How many waits and worker processes have lines, and how many queues.
MOST_WAITS, MOST_WORKERS, MOST_QUEUES = 8, 24, 40


def said(text: object, limit: int = 120) -> str:
    """What others have chosen, fit to show."""
    return redact(escape_controls(str(text), limit))


def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"said": said, "number": number, "span": span}
    return made


class Drawing:
    """Templates, read once. Thread-safe."""

    def __init__(self, *, has_password: bool) -> None:
        self._environment = environment()
        self._has_password = has_password
        self._pieces = {name: self._environment.get_template(f"{name}.html") for name in PIECES}

    def pieces(self, snapshot: Snapshot) -> Mapping[str, str]:
        """The HTML of each piece, and `news`, the text that is read aloud when it changes."""
        found = notes(snapshot)
        facts = {"notes": found, "state": snapshot.state, **_facts(snapshot)}
        drawn = {name: template.render(facts) for name, template in self._pieces.items()}
        return drawn | {"news": " ".join(note.news for note in found)}

    def html(self, request: Request, name: str, *, status: int = 200, **facts: Any) -> Response:
        """A whole page, for whoever asks."""
        about = {"session": request.state.session, "has_password": self._has_password}
        return HTMLResponse(self._environment.get_template(name).render(about, **facts), status)


def _facts(snapshot: Snapshot) -> dict[str, Any]:
    state, at = snapshot.state, snapshot.at or time.time()
    if state is None:
        return {}
    nodes = flow.nodes(state)
    return {
        "at": rings.clock(at, at),
        "figures": figures.columns(state),
        "outcomes": figures.outcomes(state),
        "pace": figures.pace(state, at),
        "failures": figures.failures(state),
        "nodes": {node.name: node for node in nodes},
        "layouts": flow.LAYOUTS,
        "told": flow.told(nodes),
        "queues": [queue for queue in state.queues or () if queue.messages or queue.role in {"requests", "answers"}][
            :MOST_QUEUES
        ],
        "rows": axis.rows(state),
        "ticks": axis.TICKS,
        "next_due": state.waits[:MOST_WAITS],
        "keys": rings.rings(state.keys, at),
        "dead": state.messages("dead"),
        "workers": _workers(state, at),
        "more_workers": max(0, len(state.workers) - MOST_WORKERS),
    }


def _workers(state: State, at: float) -> Sequence[dict[str, Any]]:
    """Those that have something to say first."""
    ordered = sorted(state.workers, key=lambda seen: (seen.lives and seen.process.not_ready is None, seen.process.host))
    return [
        {
            "process": seen.process,
            "lives": seen.lives,
            "ago": span(seen.ago_s),
            "up": span(max(0.0, at - seen.process.started_at)),
        }
        for seen in ordered[:MOST_WORKERS]
    ]
