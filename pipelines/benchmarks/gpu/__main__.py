"""What a GPU does, from clips per second to the tests; needs nothing but the repository and torch with CUDA.

``python -m pipelines.benchmarks.gpu [--out FOLDER] [--dry-run] [--parts alone,decode,...]``, or ``make gpu``.

It makes its own audio, a CLAP of published size with random weights and a PENGI of full size, measures what
``PARTS`` name, and runs the tests that are marked ``cuda``. Each clip has a content of its own, and each run
a fresh cache, so that all of them are embedded. A step that fails is named and the next one is begun; after
seven minutes none is begun. Before every step the folder gets ``gpu.json`` and ``gpu.md``: a kill leaves what
there is, and the name of what was running.

``--dry-run`` does the same on a CPU with tiny sizes, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from palm_cache.bench.extraction import machine
from palm_cache.store.atomic import replacing
from pipelines.benchmarks.gpu.bench import FULL, TINY, Bench, Sizes
from pipelines.benchmarks.gpu.parts import PARTS
from pipelines.benchmarks.watch import describe


def measure(sizes: Sizes, parts: Sequence[str], out: Path) -> dict[str, Any]:
    """Take the steps of some parts, one after the other, and write what they found."""
    said_of = {"machine": machine(), "torch": torch.__version__}
    report: dict[str, Any] = {"machine": said_of, "parts": {}, "failed": {}, "seconds": {}}
    report["skipped"], report["running"] = [], ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(sizes, Path(folder), out)
        for part in parts:
            report["parts"][part] = []
            for name, take in PARTS[part](bench):
                step = f"{part}: {name}"
                if bench.seconds_left <= 0:
                    report["skipped"].append(step)
                    continue
                report["running"] = step
                write(report, out)
                began = time.monotonic()
                try:
                    row = take()
                    report["parts"][part].append(row)
                    print(row, flush=True)
                except Exception as error:
                    traceback.print_exc()
                    report["failed"][step] = f"{type(error).__name__}: {error}"
                report["seconds"][step] = time.monotonic() - began
        report["running"] = ""
        write(report, out)
    return report


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write what has been found so far."""
    for name, text in (("gpu.json", json.dumps(report, indent=1)), ("gpu.md", describe(report))):
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure what the command line says and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pipelines/benchmarks/results"))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--parts", help="comma-separated", default=",".join(PARTS))
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry-run shows that it works")
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report = measure(TINY if options.dry_run else FULL, parts, options.out)
    print(describe(report))
    sys.exit(1 if report["failed"] else 0)


if __name__ == "__main__":
    main()
