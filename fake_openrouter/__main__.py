"""`python -m fake_openrouter`: see --help."""

import argparse
import os
from pathlib import Path

from fake_openrouter.app import Fake
from fake_openrouter.limits import Windows
from fake_openrouter.server import end_with_stdin, exit_on_signals, listen, serve


def main() -> None:
    exit_on_signals()
    options = _options()
    if options.until_stdin_closes:
        end_with_stdin()
    fake = Fake(_keys(options.keys), Windows(options.per_minute, options.window), options.latency)
    with listen(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        if options.port_file:
            _write(options.port_file, str(port))
        print(f"fake OpenRouter on http://{options.host}:{port}", flush=True)
        serve(fake.app(), listener)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fake_openrouter", description="A stand-in for OpenRouter and Gemini."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument(
        "--keys",
        default=os.environ.get("FAKE_OPENROUTER_KEYS", "any"),
        help="keys that are known, with commas between them; 'any' for all; default: FAKE_OPENROUTER_KEYS, else any",
    )
    parser.add_argument("--per-minute", type=int, default=1000, metavar="N", help="calls a key may make in a window")
    parser.add_argument("--window", type=float, default=60.0, metavar="SECONDS", help="length of the sliding window")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="time that each answer takes")
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="where to write the port, once it is open")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    return parser.parse_args()


def _keys(text: str) -> frozenset[str]:
    return frozenset() if text == "any" else frozenset(filter(None, map(str.strip, text.split(","))))


def _write(file: Path, text: str) -> None:
    """Never readable half-written."""
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(text)
    partial.replace(file)


if __name__ == "__main__":
    main()
