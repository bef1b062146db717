"""What calls have cost: kept with their attempt until it is booked, together with the answer."""

from collections.abc import Callable

from gateway.bills import Bill
from gateway.costs.books import Books
from gateway.costs.call import PaidCall
from gateway.errors import ProviderError
from gateway.keys.pool import Lease
from gateway.messages import Completion
from gateway.settings import Settings
from gateway.tags import tag_of
from middleware.attempt import JobAttempt
from middleware.errors import NoBudget
from middleware.hook import Around, Hook

#: How many tags a process books by their names, in its life; producers choose them.
MOST_TAGS = 1000
OTHER = "other"


class Costs(Hook[JobAttempt]):
    """No key is taken when the day's budget is spent. `of_call` is told of each call that has ended."""

    kind = JobAttempt

    def __init__(self, books: Callable[[], Books], settings: Callable[[], Settings]) -> None:
        self.books = books
        self.settings = settings
        self._tags: set[str] = set()

    def around(self, attempt: JobAttempt) -> Around:
        if (closed_for_s := self.books().budget.closed_for_s) > 0:
            raise NoBudget("The budget of the day is spent (BUDGET_USD_PER_DAY)", retry_in_s=closed_for_s)
        yield

    def of_call(self, attempt: JobAttempt, lease: Lease, ended: Completion | BaseException | None) -> None:
        """Keep what the call has cost; of one that was cut off, that it may have cost something."""
        request_id, tag = attempt.request_id or "", self._tag(attempt)
        if bill := _bill(ended):
            call = PaidCall.of(bill, key=lease.key.digest, tag=tag, request_id=request_id)
            self.books().budget.spend(call.cost_nano or 0)
        elif isinstance(ended, ProviderError) and ended.may_be_billed:
            call = PaidCall.lost(lease.id, key=lease.key.digest, model=lease.model, tag=tag, request_id=request_id)
        else:
            return
        attempt.paid.append(call)

    def _tag(self, attempt: JobAttempt) -> str:
        tag = tag_of(attempt.job.request, self.settings().fairness_field) or ""
        if tag and len(self._tags) < MOST_TAGS:
            self._tags.add(tag)
        return tag if not tag or tag in self._tags else OTHER


def _bill(ended: Completion | BaseException | None) -> Bill | None:
    if isinstance(ended, Completion):
        return ended.bill
    return ended.bill if isinstance(ended, ProviderError) else None
