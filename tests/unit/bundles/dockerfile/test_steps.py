"""RUN instructions as digests: what makes a step another one, and what does not."""

from __future__ import annotations

from typing import Optional

import pytest

from bundles.dockerfile.steps import Step, steps
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
TEXT = """\
ARG V=12
FROM debian:${V} AS base
ENV A=1
RUN --mount=type=cache,target=/c apt-get update \\
    # a comment
    && apt-get install -y hello
COPY . /src
RUN make
FROM base AS test
RUN make test
FROM scratch
COPY --from=base /out /out
"""


def listed(
    text: str, target: Optional[str] = None, platforms: tuple[Platform, ...] = (AMD64,), **args: str
) -> list[Step]:
    return list(steps(text, "Dockerfile", platforms, args, target))


def test_the_steps_of_what_a_target_needs() -> None:
    assert [(step.line, step.text) for step in listed(TEXT)] == [
        (4, "--mount=type=cache,target=/c apt-get update     && apt-get install -y hello"),
        (8, "make"),
    ]
    assert [step.line for step in listed(TEXT, "TEST")] == [4, 8, 10]
    assert [step.line for step in listed(TEXT, "0")] == [4, 8]
    assert listed("FROM scratch") == []


def test_the_digests_are_what_they_were() -> None:
    # A record keeps them: another algorithm would find nothing in a record from before.
    step = listed("FROM debian:12\nRUN apt-get update <<EOT\nyes\nEOT\n")[0]
    text = b'["RUN", [], "apt-get update <<EOT", ["yes"]]'
    start = Digest.of(b'[[], ["debian:12"]]')
    assert step.step == Digest.of(text)
    assert step.chain == Digest.of(b'["%s", %s]' % (str(start).encode(), text))


@pytest.mark.parametrize(
    "old, new, same_step, same_chain",
    [
        ("ENV A=1", "LABEL a=1\nCMD x\nENV A=1", True, True),
        ("FROM debian:${V} AS base", "from  debian:${V} as base", True, True),
        ("    # a comment\n", "", True, True),
        ("ENV A=1", "ENV A=2", True, False),
        ("ARG V=12", "ARG V=13", True, False),
        ("debian:${V}", "ubuntu:${V}", True, False),
        ("debian:${V}", "--platform=$BUILDPLATFORM debian:${V}", True, False),
        ("COPY . /src", "COPY a /src", True, False),
        ("RUN make\n", "RUN make -j\n", False, False),
        ("RUN make\n", "RUN --network=none make\n", False, False),
    ],
)
def test_what_makes_a_step_another_one(old: str, new: str, same_step: bool, same_chain: bool) -> None:
    before, after = listed(TEXT, "base")[-1], listed(TEXT.replace(old, new), "base")[-1]
    assert old in TEXT
    assert (before.step == after.step, before.chain == after.chain) == (same_step, same_chain)


def test_a_change_in_one_stage_is_one_in_all_that_take_from_it() -> None:
    text = "FROM a AS x\nRUN one\nFROM b AS y\nRUN --mount=type=bind,from=x,target=/x two\nFROM x\nRUN three\n"
    text += "FROM c\nCOPY --from=1 / /\nRUN four\nFROM d\nRUN five\n"
    everything = text + "FROM e\n" + "".join(f"COPY --from={number} / /\n" for number in range(5))
    before, after = listed(everything), listed(everything.replace("one", "ONE"))
    assert [step.text.split()[-1] for step in before] == ["one", "two", "three", "four", "five"]
    assert [a.step == b.step for a, b in zip(before, after)] == [False, True, True, True, True]
    assert [a.chain == b.chain for a, b in zip(before, after)] == [False, False, False, False, True]


def test_a_heredoc_is_a_part_of_its_instruction() -> None:
    text = "FROM a\nRUN <<EOT\none\nEOT\nCOPY <<EOT /x\ntwo\nEOT\nRUN three\n"
    before = listed(text)
    assert [step.step == other.step for step, other in zip(before, listed(text.replace("one", "ONE")))] == [False, True]
    after = listed(text.replace("two", "TWO"))
    assert [step.chain == other.chain for step, other in zip(before, after)] == [True, False]


def test_a_variable_in_from_can_name_a_stage() -> None:
    text = "ARG F=small\nFROM a AS small\nRUN one\nFROM b AS big\nRUN two\nFROM $F\nRUN three\n"
    assert [step.text for step in listed(text)] == ["one", "three"]
    assert [step.text for step in listed(text, F="big")] == ["two", "three"]
    assert listed(text)[-1].chain != listed(text, F="big")[-1].chain
    by_platform = "FROM a AS for-amd64\nRUN one\nFROM b AS for-arm64\nRUN two\nFROM for-$TARGETARCH\nRUN three\n"
    assert [step.text for step in listed(by_platform, platforms=(ARM64,))] == ["two", "three"]
    assert [step.text for step in listed(by_platform, platforms=(AMD64, ARM64))] == ["one", "two", "three"]
    # What cannot be expanded is for the build to say.
    assert [step.text for step in listed("FROM ${X:?no}\nRUN one\n")] == ["one"]


def test_what_onbuild_triggers_is_a_step_of_the_stage_that_triggers_it() -> None:
    text = "FROM a AS base\nONBUILD RUN <<EOT\none\nEOT\nRUN two\nFROM base\nRUN three\n"
    assert [(step.text, step.line) for step in listed(text)] == [("two", 5), ("<<EOT", 6), ("three", 7)]
    changed = listed(text.replace("one", "ONE"))
    assert [step.chain == other.chain for step, other in zip(listed(text), changed)] == [True, False, False]


@pytest.mark.parametrize(
    "text, target, message",
    [
        ("ARG A\n", None, "`Dockerfile` has no FROM"),
        (TEXT, "final", "`Dockerfile` has no stage `final`: expected one of base, test"),
        (TEXT, "3", "no stage `3`"),
        ("FROM a\nRUN <<EOT\n", None, "`Dockerfile:2`: the heredoc `EOT` does not end"),
    ],
)
def test_what_has_no_steps_is_refused(text: str, target: Optional[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        listed(text, target)
