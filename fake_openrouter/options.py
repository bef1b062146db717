"""What the command line and the environment say; the command line comes first."""

import argparse
import os
from pathlib import Path
from typing import Any

#: Before the name of an option: `--port-file` is also FAKE_PORT_FILE.
ENVIRONMENT_PREFIX = "FAKE_"


def options() -> argparse.Namespace:
    """Every option with its value; ends the process with a line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m fake_openrouter",
        description="A stand-in for OpenRouter and Gemini.",
        epilog="Each option with a value can also be set in the environment: --port-file as FAKE_PORT_FILE.",
    )
    _add(parser, "--host", "127.0.0.1", metavar="ADDRESS", help="where to listen")
    _add(parser, "--port", "0", type=int, metavar="PORT", help="0: a free one, which is printed")
    _add(parser, "--keys", "any", type=_keys, help="keys that are known, with commas between them; 'any' for all")
    _add(parser, "--per-minute", "1000", type=int, metavar="N", help="calls a key may make in a window")
    _add(parser, "--window", "60", type=float, metavar="SECONDS", help="length of the sliding window")
    _add(parser, "--latency", "0", type=float, metavar="SECONDS", help="time that each answer takes")
    _add(parser, "--port-file", type=Path, metavar="FILE", help="where to write the port, once it is open")
    _add(parser, "--record", type=Path, metavar="FILE.jsonl", help="where to add a line for each call that is over")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    return parser.parse_args()


def _add(parser: argparse.ArgumentParser, flag: str, default: str | None = None, **kind: Any) -> None:
    """Defaults are texts, so that they and the environment's are read like the command line's."""
    variable = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    parser.add_argument(flag, default=os.environ.get(variable) or default, **kind)


def _keys(text: str) -> frozenset[str]:
    """The keys; none when any will do."""
    return frozenset() if text == "any" else frozenset(filter(None, map(str.strip, text.split(","))))
