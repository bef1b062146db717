"""Text that others wrote, made fit to show: no secret, no prompt, one line.

Used wherever a text leaves the process: error envelopes, log lines, Sentry events.
"""

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MASK = "****"
PROMPT_MASK = "[prompt]"

#: An explicit secret shorter than this is left alone: masking every "a" would hide the text and not the secret.
MIN_SECRET_CHARS = 4
#: A piece of a prompt of this many characters or more is masked; shorter ones occur in any sentence by chance.
FRAGMENT_CHARS = 16
#: A prompt shorter than this is a word that any sentence may hold.
_MIN_PROMPT_CHARS = 3

#: Control characters, line and paragraph separators, invisible and direction marks, and lone surrogates.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

#: What looks like a secret wherever it stands; group 1, where there is one, stays. Repetitions are bounded, so that no
#: text takes quadratic time.
_SECRETS = (
    re.compile(r"()(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{8,}"),  # OpenRouter, OpenAI and alike
    re.compile(r"()AIza[A-Za-z0-9_-]{10,}"),  # Google API key
    re.compile(r"()\bAQ\.[A-Za-z0-9_-]{20,}"),  # Google API key, newer form
    re.compile(r"(?i)(\bbearer\s{1,8})[\w.~+/=-]{6,}"),
    re.compile(r"(?i)(\bauthorization[\"']?\s{0,8}[:=]\s{0,8}[\"']?(?:(?:basic|bearer)\s{1,8})?)[^\s\"',;]{4,}"),
    re.compile(
        r"(?i)((?:\bapi[-_ ]?key|[?&]key|\b(?:access|auth)[-_]?token|\bpassword|\bsecret)"
        r"[\"']?\s{0,8}[:=]\s{0,8}[\"']?)[^\s\"'&,;]{4,}"
    ),
    re.compile(r"((?<=://))[^\s\"'<>]{1,512}@"),  # user and password of a URL
)

#: What each of them begins with or contains, folded; most texts hold none of these, and that is found out quickly.
_SIGNS = ("sk-", "aiza", "aq.", "bearer", "auth", "access", "api", "?key", "&key", "password", "secret", "://")


def redact(text: str, secrets: Iterable[str] = (), prompts: Iterable[str] = ()) -> str:
    """`text` on one line, without secrets and without pieces of the prompts.

    Masked are: each of `secrets` (also percent-encoded), whatever looks like a key, a token or the credentials of a
    URL, each of `prompts` as a whole, and every piece of one from `FRAGMENT_CHARS` characters on. Time is linear in the
    text and the prompts; cut a text of unknown size first.
    """
    for secret in sorted(_spellings(secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    for prompt in prompts:
        text = _without_prompt(text, prompt)
    if _may_hold_secrets(text):
        for pattern in _SECRETS:
            text = pattern.sub(_masked, text)
    return escape_controls(text, limit=None)


def _may_hold_secrets(text: str) -> bool:
    folded = text.casefold().replace("\u0131", "i")  # a regular expression takes the dotless one for an i, too
    for sign in _SIGNS:  # noqa: SIM110 - any() would take twice the time, for every log line
        if sign in folded:
            return True
    return False


def escape_controls(text: str, limit: int | None = 200) -> str:
    r"""`text` as one line of visible characters, cut to `limit` characters (None: uncut).

    Newlines, ANSI escapes, U+2028 and alike become `\n`, `\x1b`, `\u2028`: a value cannot forge a log line.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit + 1]  # one more than fits, so that the cut below still shows
    escaped = text if text.isprintable() else _CONTROLS.sub(_escape, text)  # no control character is printable
    if limit is None or len(escaped) <= limit:
        return escaped
    return escaped[: max(limit - 1, 0)] + "…"


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return _SHORT_ESCAPES.get(char) or char.encode("unicode_escape", "backslashreplace").decode()


def _masked(match: re.Match[str]) -> str:
    tail = "@" if match.group().endswith("@") else ""
    return match.group(1) + MASK + tail


def _spellings(secrets: Iterable[str]) -> set[str]:
    if not secrets:
        return set()
    given = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}
    return given | {quote(secret, safe="") for secret in given}


def _without_prompt(text: str, prompt: str) -> str:
    for form in _forms(prompt):
        if len(form) >= FRAGMENT_CHARS:
            text = _without_fragments(text, form)
        elif len(form) >= _MIN_PROMPT_CHARS:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", PROMPT_MASK, text)
    return text


def _forms(prompt: str) -> set[str]:
    """The prompt as it is, and as it looks inside JSON."""
    bare = prompt.strip()
    return {bare, json.dumps(bare)[1:-1], json.dumps(bare, ensure_ascii=False)[1:-1]}


def _without_fragments(text: str, prompt: str) -> str:
    pieces = set(_windows(text))
    shared = {piece for piece in _windows(prompt) if piece in pieces}
    if not shared:
        return text
    kept: list[str] = []
    end = 0
    for start, piece in enumerate(_windows(text)):
        if piece not in shared:
            continue
        if start > end or not kept:
            kept += [text[end:start], PROMPT_MASK]
        end = start + FRAGMENT_CHARS
    return "".join([*kept, text[end:]])


def _windows(text: str) -> Iterator[str]:
    return (text[start : start + FRAGMENT_CHARS] for start in range(len(text) - FRAGMENT_CHARS + 1))
