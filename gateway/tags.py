"""The tag of a request: by it the waiting requests of one lane take turns."""

from typing import Final

from gateway.messages import Request
from gateway.reporting.redaction import escape_controls

#: A longer tag is cut, in characters.
LONGEST_TAG: Final = 100


def tag_of(request: Request, field: str | None) -> str | None:
    """What its `metadata` has under the name `field`: a text, or a whole number as its text; else None.

    It is short and has no control characters: it may be shown. `field` is the setting FAIRNESS_FIELD.
    """
    if field is None or request.metadata is None:
        return None
    given = request.metadata.get(field)
    text = str(given) if type(given) is int else given
    return escape_controls(text, LONGEST_TAG) if isinstance(text, str) and text else None
