"""`python -m console`: the command line `gemini`, where it is not installed."""

import sys

from console.cli import main

if __name__ == "__main__":
    sys.exit(main())
