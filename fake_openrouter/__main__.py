"""`python -m fake_openrouter`: see --help."""

from contextlib import ExitStack, suppress
from pathlib import Path

from fake_openrouter.app import Fake
from fake_openrouter.limits import Windows
from fake_openrouter.options import options
from fake_openrouter.record import Record
from fake_openrouter.server import end_with_stdin, exit_on_signals, listen, serve


def main() -> None:
    exit_on_signals()
    chosen = options()
    if chosen.until_stdin_closes:
        end_with_stdin()
    with ExitStack() as resources:
        log = resources.enter_context(chosen.record.open("ab", buffering=0)) if chosen.record else None
        windows = Windows(chosen.per_minute, chosen.window)
        fake = Fake(chosen.keys, windows, chosen.latency, Record(log))
        listener = resources.enter_context(listen(chosen.host, chosen.port))
        _tell(f"http://{chosen.host}:{listener.getsockname()[1]}", chosen.port_file)
        serve(fake.app(), listener)


def _tell(address: str, port_file: Path | None) -> None:
    """In the file, if there is one, before on stdout; a stdout that nobody reads, or that is closed, is no fault."""
    if port_file:
        _write(port_file, address.rpartition(":")[2])
    with suppress(OSError):
        print(f"fake OpenRouter on {address}", flush=True)


def _write(file: Path, text: str) -> None:
    """Never readable half-written."""
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(text)
    partial.replace(file)


if __name__ == "__main__":
    main()
