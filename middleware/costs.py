"""What calls have cost: kept with their attempt until it is booked, together with the answer."""

import time
from collections.abc import Callable
from dataclasses import replace

from gateway.bills import Bill
from gateway.costs.books import Books
from gateway.costs.call import PaidCall
from gateway.costs.store import DAY_S
from gateway.errors import GatewayError, ProviderError
from gateway.keys.pool import Lease
from gateway.messages import Completion, Job
from gateway.settings import Settings
from gateway.tags import tag_of
from middleware.attempt import JobAttempt
from middleware.errors import NoBudget
from middleware.hook import Around, Hook

#: How many names of key, model and tag a process books in a day; producers choose some of them.
MOST_NAMES = 2000
OTHER = "other"


class Costs(Hook[JobAttempt]):
    """No key is taken when the day's budget is spent. `of_call` is told of each call that has ended."""

    kind = JobAttempt

    def __init__(self, books: Callable[[], Books], settings: Callable[[], Settings]) -> None:
        self.books = books
        self.settings = settings
        self._day = 0
        self._names: set[tuple[str, str, str]] = set()

    def around(self, attempt: JobAttempt) -> Around:
        if (closed_for_s := self.books().budget.closed_for_s) > 0:
            raise NoBudget("The budget of the day is spent (BUDGET_USD_PER_DAY)", retry_in_s=closed_for_s)
        yield

    def of_call(self, attempt: JobAttempt, lease: Lease, ended: Completion | BaseException | None) -> None:
        """Keep what the call has cost; of one that was cut off, that it may have cost something."""
        about = {"key": lease.key.digest, **self._about(attempt.job)}
        if bill := _bill(ended):
            call = PaidCall.of(bill, **about)
            self.books().budget.spend(call.cost_nano or 0)
        elif isinstance(ended, GatewayError) and ended.may_be_billed:
            call = PaidCall.lost(lease.id, model=lease.model, **about)
        else:
            return
        attempt.paid.append(self._within_bounds(call))

    def of_death(self, token: str, job: Job) -> None:
        """Book a call that its process has not survived, if it had begun one: it may have been paid for."""
        call = PaidCall.lost(token, key="", model=job.request.model or "", **self._about(job))
        self.books().now([self._within_bounds(call)])

    def _about(self, job: Job) -> dict[str, str]:
        tag = tag_of(job.request, self.settings().fairness_field) or ""
        return {"tag": tag, "request_id": job.request_id}

    def _within_bounds(self, call: PaidCall) -> PaidCall:
        if (day := int(time.time() // DAY_S)) != self._day:
            self._day, self._names = day, set()
        names = (call.key, call.model, call.tag)
        if names not in self._names and len(self._names) >= MOST_NAMES:
            return replace(call, model=OTHER, tag=OTHER)
        self._names.add(names)
        return call


def _bill(ended: Completion | BaseException | None) -> Bill | None:
    if isinstance(ended, Completion):
        return ended.bill
    return ended.bill if isinstance(ended, ProviderError) else None
