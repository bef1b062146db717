"""What a provider's text must not repeat: the request, the key that asked, and any other key of ours."""

from collections.abc import Iterable

from gateway.messages import Request
from gateway.reporting.redaction import redact
from gateway.secrets import ApiKey


def hidden(request: Request, keys: Iterable[ApiKey], text: str) -> str:
    """`text` without the prompt and without the keys.

    Whole, before anybody cuts it: half a key is not found any more, and is half a key all the same.
    """
    return redact(text, [key.reveal() for key in keys], [request.prompt, request.system_instruction or ""])
