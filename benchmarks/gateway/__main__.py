"""All parts, one after the other."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import gateway

_SMALL = {
    "overhead": "--seconds 2 --rounds 2",
    "streaming": "--seconds 2 --rounds 1",
    "weak": "--queries 30",
    "share": "--requests 3000",
    "soak": "--requests 6000",
}
_FULL = {
    "overhead": "--seconds 5 --rounds 10",
    "streaming": "--seconds 5 --rounds 5",
    "weak": "--queries 200",
    "share": "--requests 10000",
    "soak": "--requests 100000",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gateway", description=gateway.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--full", action="store_true", help="the sizes of docs/benchmarks.md")
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--json", action="store_true", help="an object for each part")
    parser.add_argument("--litellm", type=Path, help="as overhead takes it")
    parser.add_argument("--demo", type=Path, default=Path("foretell-demo/geo"), help="for weak")
    options = parser.parse_args()
    sizes = _FULL if options.full else _SMALL
    for part in options.only.split(",") if options.only else sizes:
        arguments = sizes[part].split()
        if options.json:
            arguments.append("--json")
        if part == "overhead" and options.litellm is not None:
            arguments += ["--litellm", str(options.litellm)]
        if part == "weak":
            if not options.demo.exists():
                print(f"weak: left out, there is no {options.demo}; run foretell demo first")
                continue
            arguments += ["--demo", str(options.demo)]
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.gateway.{part}", *arguments]
        failed = subprocess.run(command, check=False).returncode
        note = f"; it ended with {failed}" if failed else ""
        print(f"{part}: {time.monotonic() - began:.0f} s{note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
