"""Tables, and docs/performance.md: what is measured is replaced, what people wrote is kept."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

BEGIN = "<!-- measured: `make bench` replaces everything up to the end mark -->"
END = "<!-- measured: end -->"
_NEW = f"# As fast as the disk\n\n{BEGIN}\n{END}\n"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its title and what is to be known about it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """As Markdown, with columns that line up on a terminal too."""
        widths = [max(len(row[column]) for row in (self.header, *self.rows)) for column in range(len(self.header))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + " |"
            for row in (self.header, *self.rows)
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([f"### {self.title}", "", *([self.note, ""] if self.note else []), *lines])


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A line of the summary: what was asked for and what was found. `met` is None where there is nothing to meet."""

    what: str
    target: str
    measured: str
    met: bool | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a part of the benchmark found."""

    tables: Sequence[Table] = ()
    ratios: Sequence[Ratio] = ()
    failures: Sequence[str] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings((*self.tables, *other.tables), (*self.ratios, *other.ratios), (*self.failures, *other.failures))


def text(findings: Findings, machine: str, seconds: float) -> str:
    """All of it, the summary first."""
    words = {True: "yes", False: "no", None: ""}
    summary = Table(
        "Ratios",
        f"{machine} The whole run took {seconds / 60:.0f} minutes.",
        ("what", "target", "measured", "met"),
        [(ratio.what, ratio.target, ratio.measured, words[ratio.met]) for ratio in findings.ratios],
    )
    parts = [table.text() for table in (summary, *findings.tables)]
    if findings.failures:
        parts.append("### What failed\n\n" + "\n".join(f"- {failure}" for failure in findings.failures))
    return "\n\n".join(parts)


def machine() -> str:
    """This machine, and now, in two sentences."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = os.getloadavg()[0]
    now = datetime.datetime.now().astimezone()
    return (
        f"Measured on {now:%Y-%m-%d %H:%M} on {os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, "
        f"Linux {platform.release()}, Python {platform.python_version()}; the load was {load:.1f} when it began."
    )


def write(path: Path, measured: str) -> None:
    """Replace what is between the marks."""
    old = path.read_text() if path.exists() else _NEW
    if BEGIN not in old or END not in old:
        old += f"\n{BEGIN}\n{END}\n"
    head, _, rest = old.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n\n{measured}\n\n{END}{rest.partition(END)[2]}")
