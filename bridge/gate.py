"""From a message of other people's to a request, or to an error and whom to tell: pure."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bridge.body import NoRequest, fields_of
from bridge.spelling import unknown_parameters
from gateway.errors import ErrorCode, InvalidMessage
from gateway.messages import Cancel, Request
from gateway.rabbitmq.request_reply import DIRECT_REPLY_TO, is_direct, is_of_a_client, queue_of

#: How many faults an error text names.
MAX_FAULTS = 5

#: Makes the ids of requests that have none.
_MADE_UP = uuid.UUID("0d3c2f6e-5d0c-4c53-9a55-7a0b9f1c8e21")

#: Says why an answer may not go to a queue, None when it may.
Refusal = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Sender:
    """What AMQP properties say of who asks, standing in for fields that the body does not have, and of the body."""

    request_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class _Address:
    """Where an answer is asked for, `said_in` a field or a property; `queue` is None where that is no queue."""

    said_in: str
    queue: str | None

    def fault(self, refusal: Refusal) -> InvalidMessage | None:
        """Why no answer goes there, None when it may."""
        if self.queue is None:
            text = "only queues are answered, by their name; an exchange with a routing key is not"
            return InvalidMessage(f"{self.said_in}: {text}", code=ErrorCode.CALLBACK_REFUSED)
        if (why := refusal(self.queue)) is not None:
            return InvalidMessage(f"{self.said_in}: {why}", code=ErrorCode.CALLBACK_REFUSED)
        return None


def admit(
    body: bytes, sender: Sender, *, default_callback: str, refusal: Refusal, any_parameters: bool = False
) -> Request | Cancel:
    """The request in `body`, or the cancel of one.

    With `any_parameters` those that are unknown are left out, else they are refused: what is asked for and not done
    would be paid for all the same.

    Raises InvalidMessage, which carries the request id and the callback queue where they could be read by any means and
    may be used, so that the sender can be answered.
    """
    try:
        fields = fields_of(body, content_type=sender.content_type, content_encoding=sender.content_encoding)
    except NoRequest as why:
        raise _told(InvalidMessage(str(why)), why.names, sender, refusal) from None
    if "cancel" in fields:
        return _cancel(fields, sender, refusal)
    named = next(_addresses(fields, sender), None)
    if named is not None and (fault := named.fault(refusal)) is not None:
        raise _told(fault, fields, sender, refusal)
    callback = named.queue if named is not None else default_callback
    given = fields.get("request_id", sender.request_id)
    request_id = given if given is not None else _made_up(body, named)

    def refused(why: str) -> InvalidMessage:
        invalid = _told(InvalidMessage(why), fields, sender, refusal)
        if named is None and invalid.request_id is not None:
            # Without an id nobody could tell whose error lies in the shared response queue.
            invalid.callback_queue = default_callback
        return invalid

    if not any_parameters and (unknown := unknown_parameters(fields.get("parameters"), most=MAX_FAULTS)):
        raise refused("; ".join(unknown))
    try:
        return Request.model_validate({**fields, "request_id": request_id, "callback_queue": callback}, strict=True)
    except ValidationError as error:
        raise refused(_faults(error)) from None


def admit_cancel(body: bytes) -> Cancel:
    """The cancel in `body`. Raises InvalidMessage, which names nobody to answer."""
    try:
        fields = fields_of(body, content_type=None, content_encoding=None)
    except NoRequest as why:
        raise InvalidMessage(str(why)) from None
    return _cancel(fields, Sender(), lambda _queue: "nobody is told")


def _cancel(fields: Mapping[str, Any], sender: Sender, refusal: Refusal) -> Cancel:
    named = fields.get("cancel")
    if not {"prompt", "messages"}.isdisjoint(fields):
        # To read it as a request would mean to pay for what its sender perhaps does not want.
        fault = "cancel: a message is a request or the cancel of one, not both"
    else:
        try:
            # As with `request_id`, a whole number is taken for its text, and 7.0 is one.
            number = int(named) if isinstance(named, float) and named.is_integer() else named
            return Cancel(cancel=str(number) if type(number) is int else named)
        except ValidationError as error:
            fault = _faults(error)
    invalid = _told(InvalidMessage(fault), fields, sender, refusal)
    invalid.request_id = None  # else it would be taken for the envelope of the request that was to be cancelled
    raise invalid


def _addresses(names: Mapping[str, Any], sender: Sender) -> Iterator[_Address]:
    """Where the answer may be meant to go, the first one first. A direct reply-to is complete only as a property."""
    named = names.get("callback_queue")
    if named is not None and not (named == DIRECT_REPLY_TO and is_direct(sender.reply_to or "")):
        yield _Address("callback_queue", named if isinstance(named, str) else None)
    if sender.reply_to is not None:
        yield _Address("reply_to", queue_of(sender.reply_to))


def _told(error: InvalidMessage, names: Mapping[str, Any], sender: Sender, refusal: Refusal) -> InvalidMessage:
    """The error, with what is known of whom to tell."""
    usable = (address.queue for address in _addresses(names, sender) if address.fault(refusal) is None)
    error.callback_queue = next(usable, None)
    error.request_id = _text(names.get("request_id")) or sender.request_id
    return error


def _made_up(body: bytes, named: _Address | None) -> str | None:
    """An id for a client that waits and has given none: the same whenever this body comes again from there."""
    if named is None or named.queue is None or not (named.said_in == "reply_to" or is_of_a_client(named.queue)):
        return None
    return str(uuid.uuid5(_MADE_UP, f"{named.queue}/{hashlib.sha256(body).hexdigest()}"))


def _text(request_id: object) -> str | None:
    """What is no id says all the same whose it is, unless it is long."""
    return json.dumps(request_id) if isinstance(request_id, bool | float) else _string(request_id)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _faults(error: ValidationError) -> str:
    """`field: what is wrong` for each fault; never a value, which may be the prompt."""
    faults = [f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors(include_input=False)]
    shown = "; ".join(faults[:MAX_FAULTS])
    return shown if len(faults) <= MAX_FAULTS else f"{shown}; and {len(faults) - MAX_FAULTS} more"
