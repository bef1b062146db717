"""`python -m console`, and `gemini` where it is installed: the command line."""

import sys


def main() -> int:
    """Run the command that was typed; the exit code of the process."""
    if sys.argv[1:] == ["health"]:  # a probe: what the other commands import takes a second
        from console.health import health  # noqa: PLC0415

        return health()
    from console.cli import main as run  # noqa: PLC0415

    return run()


if __name__ == "__main__":
    sys.exit(main())
