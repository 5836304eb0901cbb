"""`python -m reproduce.benchmark.peers`, for short `make bench-peers`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fedrevive_core.files import atomic_file, check_file
from reproduce.benchmark.peers.compare import PEERS, ROOT, compare
from reproduce.benchmark.peers.show import plot_peers, table
from reproduce.console import save_figure


def main() -> None:
    """Compare, and write the JSON file and the figure."""
    parser = argparse.ArgumentParser(description="Run the same job in this package and in its peers, in turn.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file; a figure goes beside it")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", metavar="DIR", help="their environments")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help="some peers")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each peer (default: 3)")
    given = parser.parse_args()
    check_file(given.out, given.out.with_suffix(".png"))
    found = compare(given.peers, given.only, given.repeats, lambda line: print(line, flush=True))
    with atomic_file(given.out) as path:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["runs"]:
        save_figure(plot_peers(found), given.out.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
