"""Who is logged in: a password, a bounded number of guesses, sessions in memory."""

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

#: How long a session lasts, in seconds, and how many there may be.
LIFE_S, MOST = 12 * 3600.0, 100

#: So many wrong passwords are looked at in so many seconds, whoever has typed them: behind a proxy all look alike.
MOST_WRONG, WRONG_S = 10, 60.0


class TooManyGuesses(Exception):
    """No password is looked at now; who is logged in already stays."""


@dataclass(frozen=True)
class Session:
    """Somebody who has typed the password; `csrf` stands in each form of theirs. Its `repr` shows no token."""

    token: str = field(repr=False)
    csrf: str = field(repr=False)
    ends_at: float

    def made(self, csrf: str) -> bool:
        """Whether a form with this token was made for this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    """Those of one process; a restart ends them. For one thread."""

    def __init__(self, password: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._password = _digest(password)
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}
        self._wrong: deque[float] = deque(maxlen=MOST_WRONG)

    def is_right(self, typed: str) -> bool:
        """Whether it is the password, compared in constant time. Raises TooManyGuesses."""
        now = self._clock()
        if len(self._wrong) == MOST_WRONG and now - self._wrong[0] < WRONG_S:
            raise TooManyGuesses
        right = hmac.compare_digest(_digest(typed), self._password)
        if not right:
            self._wrong.append(now)
        return right

    def log_in(self, typed: str) -> Session | None:
        """A new session, None for a wrong password. Raises TooManyGuesses."""
        if not self.is_right(typed):
            return None
        self._forget_old()
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), self._clock() + LIFE_S)
        self._sessions[_digest(session.token)] = session
        return session

    def find(self, token: str) -> Session | None:
        session = self._sessions.get(_digest(token))
        return session if session is not None and self._clock() < session.ends_at else None

    def log_out(self, session: Session) -> None:
        """Idempotent."""
        self._sessions.pop(_digest(session.token), None)

    def _forget_old(self) -> None:
        """Those whose time is over, and the oldest when there are too many."""
        now = self._clock()
        living = [(name, one) for name, one in self._sessions.items() if now < one.ends_at]
        self._sessions = dict(living[-(MOST - 1) :])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
