"""From an HTTP answer to a completion or an error: what is common to the providers. Pure.

A provider's module normalises its failed answers, an error status or an error inside a 200, into a `Fault`, and keeps
its decisions as a table of `Rule`; `judge` applies the first rule that fits.
"""

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from gateway.errors import ErrorCode, ProviderError, RequestRejected, Scope, UpstreamFailed
from gateway.providers.bodies import Content, read
from gateway.providers.candidates import unreadable
from gateway.providers.evidence import STATUSES
from gateway.providers.hints import header_waits, longest
from gateway.providers.values import count, string
from gateway.reporting.redaction import escape_controls, redact

#: Takes secrets and prompts out of a provider's text.
Hide = Callable[[str], str]

#: More of a provider's error text is no help to the reader of an envelope.
MAX_TEXT_CHARS: Final = 300
#: Read this much of a text before secrets are taken out of it and it is cut: a bound on the work.
MAX_READ_CHARS: Final = 4096


class _Any(Container[int]):
    def __contains__(self, status: object) -> bool:
        return True


ANY_STATUS: Final = _Any()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP: the status, the headers in whatever case, the whole body.

    `encoding` names the content encoding that the body still has, because we cannot undo it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    encoding: str = ""

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def content(self) -> Content:
        """The JSON objects in the body, read anew each time."""
        return read(self.body, self.header("Content-Type") or "")

    def header(self, name: str) -> str | None:
        """The value of a header, None where it is missing."""
        return next((value for header, value in self.headers.items() if header.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed answer in a provider's own words.

    `status` is the HTTP status, or the code inside a 200. `source` names the limit or cause where the provider does.
    `signs` is the lower-case text in which markers are looked for, `raw` the same of the model's provider behind a
    gateway. `from_provider` says that the call had got through to that one. `wait_s` is the wait that was asked for.
    """

    status: int
    message: str = field(default="", repr=False)
    source: str = ""
    signs: str = field(default="", repr=False)
    raw: str = field(default="", repr=False)
    from_provider: bool = False
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a decision table: which faults it fits, what they mean, and why.

    A condition that is left out fits every fault. `markers` are words in lower case, each with the page where it was
    seen; those of a rule that `reads_raw` are looked for in the words of the model's provider, too. Such a rule has to
    be about the request alone: these may repeat a prompt, and nobody's prompt may rest the keys of all.
    `reason` is the slug of the error; without one it is the fault's source where the rule is about sources, else
    `http_<status>`. `says` is what the error text begins with, where the provider's own words do not tell why.
    """

    why: str
    error: type[ProviderError]
    scope: Scope | None = None
    code: ErrorCode | None = None
    reason: str = ""
    says: str = ""
    for_operator: bool = False
    sources: Collection[str] = ()
    markers: Mapping[str, str] = field(default_factory=dict)
    reads_raw: bool = False
    from_provider: bool = False
    states_wait: bool = False
    statuses: Container[int] = ANY_STATUS

    def fits(self, fault: Fault) -> bool:
        return (
            fault.status in self.statuses
            and (not self.sources or fault.source in self.sources)
            and (not self.markers or any(marker in self._read(fault) for marker in self.markers))
            and (fault.from_provider or not self.from_provider)
            and (fault.wait_s is not None or not self.states_wait)
        )

    @property
    def is_named(self) -> bool:
        """Whether the provider has to name what the rule is about; otherwise it goes by the status."""
        return bool(self.sources or self.markers)

    def _read(self, fault: Fault) -> str:
        return f"{fault.signs} {fault.raw}" if self.reads_raw else fault.signs

    def slug(self, fault: Fault) -> str:
        return self.reason or (fault.source if self.sources else f"http_{fault.status}")


def judge(fault: Fault, table: tuple[Rule, ...], *, who: str, hide: Hide) -> ProviderError:
    """The error that the first fitting rule of `table` makes of `fault`; the last rule has to fit everything."""
    rule = next(rule for rule in table if rule.fits(fault))
    return rule.error(
        ": ".join(part for part in (f"{who} answered {fault.status}", rule.says, _shown(fault.message, hide)) if part),
        reason=rule.slug(fault),
        code=rule.code,
        scope=rule.scope,
        status=fault.status,
        retry_after_s=fault.wait_s,
        is_named=rule.is_named,
        for_operator=rule.for_operator,
    )


def code_of(*kinds: object) -> int | None:
    """The status that an error stands for, in digits or in words, by the first that tells it; None where none does."""
    for kind in kinds:
        code = count(kind) or STATUSES.get(string(kind).lower().replace(" ", "_").replace("-", "_"))
        if code in range(400, 600):
            return code
    return None


def is_meant(error: Mapping[str, Any], code: int | None) -> bool:
    """Whether an error object beside an answer tells of an error, by the status it stands for or by its words.

    Some servers put an empty one there, or one that says `{"code": 200, "message": "OK"}`.
    """
    given = count(error.get("code"))
    if given is not None and code is None:
        return given >= HTTPStatus.BAD_REQUEST
    return code is not None or bool(string(error.get("message")).strip())


def stranger(who: str, answer: Answer, *, now: float) -> UpstreamFailed:
    """Not the provider has spoken but something on the way: a proxy, a firewall, a wrong address. Keys are untouched.

    Whatever its status is: that is about the way. The page itself is not shown.
    """
    kind = _word(answer.header("Content-Type") or "no content type")
    hint = ", a challenge of Cloudflare's" if answer.header("cf-mitigated") else ""
    return UpstreamFailed(
        f"Something on the way to {who} answered {answer.status}, and not {who} itself ({kind}{hint}): "
        "look at the base URL and the proxy",
        reason="not_the_provider",
        status=answer.status,
        retry_after_s=longest(header_waits(answer.headers, now)),
    )


def spoiled(who: str, answer: Answer, content: Content, *, field: bytes) -> RequestRejected | None:
    """The error for a success of the provider's, so paid for, that cannot be read; None when it is not the provider's.

    `field` is what its answers have, and those of nobody else.
    """
    kind = answer.header("Content-Type") or ""
    if content.objects or content.is_whole or "html" in kind or answer.body.lstrip().startswith(b"<"):
        return None
    if answer.encoding:
        return unreadable(who, f"the content encoding {_word(answer.encoding)}, which was not asked for")
    return unreadable(who, "broken JSON") if "json" in kind or field in answer.body else None


def _word(header: str) -> str:
    """What a header of a stranger's says, safe to show."""
    return escape_controls(redact(header.partition(";")[0].strip()), limit=40)


def _shown(message: str, hide: Hide) -> str:
    if len(message) > MAX_READ_CHARS:
        # Without its last word: half a key does not look like a key.
        message = message[:MAX_READ_CHARS].rsplit(None, 1)[0] + "…"
    return escape_controls(hide(message.strip()), limit=MAX_TEXT_CHARS)
