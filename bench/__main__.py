"""`python -m bench`: everything in one go, a table of ratios at the end and in docs/performance.md."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import time
import traceback
from pathlib import Path

from bench import report
from bench.context import Context, scratch
from bench.measure import say
from bench.workload import serving

PARTS = {
    "startup": "bundle --help, and inspect of a 20 GB archive",
    "create": "registry -> archive, beside the peers",
    "push": "archive -> registry, beside the peers",
    "growth": "10, 100 and 1,000 images; 1 to 16 workers",
    "serve": "what our registry serves at once, from its disk and from an S3 storage",
    "links": "100 ms of latency; 100 Mbit/s",
    "install": "the whole install beside the manual procedure",
    "record": "a build that is recorded beside the same build alone",
    "replay": "a step that is replayed beside a mirror on loopback",
}
_MODULES = {
    **{"create": "creating", "push": "pushing", "install": "installing", "serve": "serving"},
    **{"record": "recording", "replay": "replaying"},
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="about three minutes: less of everything, one round")
    parser.add_argument("--rounds", type=int, help="how often each is run (5; 1 with --quick)")
    parser.add_argument("--scratch", type=Path, help="where to write; on the disk that is to be measured")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name} also when not everything was run")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    machine, begun = report.machine(), time.monotonic()
    findings = report.Findings()
    with scratch(arguments.scratch) as directory, serving() as (address, storage):
        rounds = arguments.rounds or (1 if arguments.quick else 5)
        context = Context(address, storage, Path(directory), arguments.quick, rounds)
        for part in arguments.parts or PARTS:
            part_begun = time.monotonic()
            say(f"== {part}: {PARTS[part]}")
            try:
                findings += importlib.import_module(f"bench.{_MODULES.get(part, part)}").run(context)
            except Exception as error:  # noqa: BLE001  one part's failure does not end the others
                traceback.print_exc()
                findings += report.Findings(failures=[f"{part}: {error}"])
            for left in Path(directory).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            say(f"== {part} took {time.monotonic() - part_begun:.0f} s")
    measured = report.text(findings, machine, time.monotonic() - begun)
    print(measured)
    if arguments.write or not (arguments.parts or arguments.quick):
        report.write(DOCUMENT, measured)
        say(f"written to {DOCUMENT}")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
