"""`gemini health`: whether the worker processes of this machine, or container, live. For probes, so it is quick.

RabbitMQ and the store are not asked: without them a worker waits, and a new one would wait as well. Nothing here may
import what takes long; what it costs is measured in tests/test_health.py.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from gateway import exits
from gateway.heartbeat import LIFE_S, Sign, folder_of, signs


def health(*, json_wanted: bool = False) -> int:
    """Say how they are; the exit code is 0 when there are any and all are well, else 1."""
    found, trouble = _look()
    if json_wanted:
        processes = [asdict(sign) | {"is_well": sign.is_well} for sign in found]
        print(json.dumps({"is_well": trouble is None, "trouble": trouble, "processes": processes}))
    elif trouble is None:
        print(f"{len(found)} worker {'process lives' if len(found) == 1 else 'processes live'}")
    else:
        print(trouble, file=sys.stderr)
    return 0 if trouble is None else exits.NOTHING


def _look() -> tuple[Sequence[Sign], str | None]:
    """The processes, and what is wrong with them in words."""
    folder = folder_of(os.environ)
    try:
        found = signs(folder)
    except OSError as error:
        return [], f"{folder} cannot be read: {error.strerror}. It is beside STATE_PATH"
    if not found:
        return [], f"No worker process shows a sign of life in {folder}: none has started, or STATE_PATH is another one"
    return found, "; ".join(_told(sign) for sign in found if not sign.is_well) or None


def _told(sign: Sign) -> str:
    if sign.trouble is not None:
        return f"process {sign.pid}: {sign.trouble}"
    return f"process {sign.pid} hangs: it has shown no sign of life for {sign.age_s:.0f} s (limit {LIFE_S:.0f} s)"
