"""What was measured, as files: `results/` has the last run of each command, `published/` what the pages are made of."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Of the last run, and not under version control; and what is published, which is.
RESULTS, PUBLISHED = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "published"

#: A row of a table: its columns in order, a number or a text in each; None is for what never came.
Row = dict[str, float | str | None]


def keep(folder: Path, name: str, facts: Mapping[str, object]) -> None:
    """Write a file that says when it was measured, and on what."""
    folder.mkdir(exist_ok=True)
    where = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    (folder / f"{name}.json").write_text(json.dumps({**where, **facts}, indent=2) + "\n")


def load(folder: Path, name: str) -> Any:
    """What was kept; None where nothing was."""
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None
