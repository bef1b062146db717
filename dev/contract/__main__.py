"""Writes docs/contract/ and the tables of docs/messages.md, or says which of them are out of date."""

import json
import sys

from dev.contract.asyncapi import asyncapi
from dev.contract.schemas import schemas
from dev.contract.tables import with_tables
from dev.launcher import ROOT


def files() -> dict[str, str]:
    """Each file with what has to be in it."""
    made = {
        f"docs/contract/{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }
    page = (ROOT / "docs/messages.md").read_text(encoding="utf-8")
    return made | {"docs/contract/asyncapi.yaml": asyncapi(), "docs/messages.md": with_tables(page)}


def main() -> int:
    stale = {name: text for name, text in files().items() if _read(name) != text}
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"{', '.join(stale)}: not what the messages say of themselves. Run script/contract", file=sys.stderr)
        return bool(stale)
    for name, text in stale.items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: written")
    return 0


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""


if __name__ == "__main__":
    sys.exit(main())
