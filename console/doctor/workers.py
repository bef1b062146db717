"""The store can be written, and workers report to it."""

from collections.abc import Iterator

from console.doctor.finding import Finding, of_error, ok
from console.opened import Opened
from console.screen import span
from gateway.errors import StoreUnavailable
from gateway.usage.store import Process

STORE, WORKERS = "store", "workers"

#: Nobody; to have the store write something that changes nothing.
NOBODY = Process("nobody", "", 0, "", 0.0, 0, 0, 0, None)


def check_store(here: Opened) -> Iterator[Finding]:
    """Whether it takes what a worker writes; opening it has read it already."""
    is_redis = here.settings.redis_url is not None
    try:
        here.stores.usage.leave(NOBODY)
    except StoreUnavailable as error:
        yield of_error(STORE, error)
    else:
        yield ok(STORE, "Redis can be written" if is_redis else f"{here.settings.state_path} can be written")


def check_workers(here: Opened) -> Iterator[Finding]:
    """Who lives, who is missing, and who does no work."""
    seen = here.stores.usage.processes()
    living = [one.process for one in seen if one.lives]
    if not living:
        advice = "start one (gemini run); one that runs has another STATE_PATH or REDIS_URL, or is of an older version"
        yield Finding(WORKERS, "failed", "none reports to this store", advice)
    for one in seen:
        who = f"process {one.process.pid} on {one.process.host}"
        if not one.lives:
            what = f"{who} has not reported for {span(one.ago_s)}"
            yield Finding(WORKERS, "warning", what, "see its log: it was killed, hangs, or cannot reach the store")
        elif one.process.not_ready is not None:
            yield Finding(WORKERS, "failed", f"{who} is not ready: {one.process.not_ready}", "see its log")
    versions = sorted({process.version for process in living})
    if len(versions) > 1:
        yield Finding(WORKERS, "warning", f"versions {', '.join(versions)} side by side", "finish the deployment")
    if living:
        yield ok(WORKERS, f"{len(living)} report, of version {versions[-1]}")
