"""Measures the whole platform: tables on the screen, JSON in loadtests/results.

    python -m loadtests.bench [platform] [mixed] [bulk] [scaling] [adaptive] [fleet] [--quick]

All figures of one part are from one run on one machine that does nothing else; compare them as
ratios. `python -m loadtests.plots` draws them.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

from loadtests import (
    adaptive_bench,
    bulk_bench,
    fleet_bench,
    mixed_bench,
    platform_bench,
    scaling_bench,
)
from loadtests.report import Tables, keep, show

PARTS: Final[Mapping[str, Callable[..., Tables]]] = {
    "platform": platform_bench.measure,
    "mixed": mixed_bench.measure,
    "bulk": bulk_bench.measure,
    "scaling": scaling_bench.measure,
    "adaptive": adaptive_bench.measure,
    "fleet": fleet_bench.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="all of them if none is named")
    parser.add_argument("--quick", action="store_true", help="seconds each: checks the bench only")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that platforms are stopped too
    for part in arguments.parts or PARTS:
        print(f"measuring {part} …", flush=True)
        tables = PARTS[part](quick=arguments.quick)
        show(tables)
        print(f"in {keep(part, tables, quick=arguments.quick)}\n")


if __name__ == "__main__":
    main()
