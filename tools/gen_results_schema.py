"""Write docs/results.schema.json from the structs of results.json. `--check` fails when what is committed is stale."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from scoot.coordinator.report.results import results_json_schema

PATH = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results.schema.json"


def main() -> None:
    """Generate in place, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    fresh = json.dumps(results_json_schema(), indent=2) + "\n"
    if parser.parse_args().check:
        if not PATH.exists() or PATH.read_text(encoding="utf-8") != fresh:
            sys.exit(f"{PATH.name} is stale; run `make schema` and commit the result")
        return
    PATH.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
