"""Images in Dockerfiles. The cases that list images were compared with what BuildKit 0.32 asks its registry for."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.dockerfile.expansion import Expansion
from bundles.dockerfile.images import BuildSettings, uses
from bundles.dockerfile.parser import parse
from bundles.errors import UsageError
from bundles.oci.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BOTH = ("amd64", "arm64")


def found(text: str, arguments: Optional[dict[str, str]] = None, **contexts: str) -> list[tuple[str, str, int, str]]:
    """Image, architectures, line and kind of every use, for a build of both platforms on amd64."""
    settings = BuildSettings((AMD64, ARM64), (AMD64,), arguments or {}, contexts)
    merged: dict[tuple[str, int, str], list[str]] = {}
    for use in uses(text, "Dockerfile", settings):
        key = (use.reference.familiar, int(use.where.partition(":")[2]), use.how)
        merged.setdefault(key, []).append(use.platform.architecture)
    return [(image, "+".join(names), line, how) for (image, line, how), names in merged.items()]


def images(text: str, arguments: Optional[dict[str, str]] = None, **contexts: str) -> list[str]:
    return [image for image, _, _, _ in found(text, arguments, **contexts)]


def test_everything_at_once() -> None:
    text = """\
# syntax=docker/dockerfile:1.7
# escape=`
ARG REG=ghcr.io/
ARG V=12
ARG IMG=${REG}debian:${V}
FROM --platform=$BUILDPLATFORM golang:1.22 AS build
ARG V=13
RUN --mount=type=cache,target=/x --mount=from=ghcr.io/a/b:1,target=/y `
    # a comment inside

    echo a <<EOT && cat <<-"END"
FROM nothing:1
EOT
\tFROM nothing:2
\tEND
FROM ${IMG}-${TARGETARCH} AS Final
COPY --from=build /a /b
COPY --from=0 /a /b
COPY --from=busybox:1.35 /bin/sh /sh
FROM final
FROM scratch
COPY --from=FINAL / /
"""
    assert found(text) == [
        ("docker/dockerfile:1.7", "amd64", 1, "# syntax"),
        ("golang:1.22", "amd64", 6, "FROM"),
        ("ghcr.io/a/b:1", "amd64+arm64", 8, "RUN --mount"),
        ("ghcr.io/debian:12-amd64", "amd64", 16, "FROM"),
        ("ghcr.io/debian:12-arm64", "arm64", 16, "FROM"),
        ("busybox:1.35", "amd64+arm64", 19, "COPY --from"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM debian", ["debian:latest"]),
        ("from debian:12 as x", ["debian:12"]),
        ("\ufeffFROM debian:12", ["debian:12"]),
        ("FROM debian:12\r\nRUN a \\\r\n b\r\nFROM gcc:12\r\n", ["debian:12", "gcc:12"]),
        ('FROM "debian:12"', ["debian:12"]),
        ("FROM scratch\nCOPY --from=scratch / /", []),
        ("FROM \\\n  debian:12 \\\n  AS x\nFROM x", ["debian:12"]),
        ("FROM x AS y\nFROM y AS z\nCOPY --from=z / /", ["x:latest"]),
        ("FROM y\nFROM debian AS y", ["y:latest", "debian:latest"]),
        ("FROM a\nCOPY --from=later / /\nFROM b AS later", ["a:latest", "b:latest"]),
        (f"FROM debian@sha256:{'a' * 64}", [f"debian@sha256:{'a' * 64}"]),
        ("FROM a\nRUN <<E F <<G\nFROM b\nE\nFROM c\nG\nFROM d", ["a:latest", "d:latest"]),
        ("FROM a\nRUN cat << 'E F'\nFROM b\nE F\nFROM d", ["a:latest", "d:latest"]),
        ("FROM a\nRUN echo '<<EOF'\nFROM d", ["a:latest", "d:latest"]),
        ("FROM a\nRUN echo $((1<<3))\nFROM d", ["a:latest", "d:latest"]),
        ('FROM a\nRUN ["cat", "<<EOF"]\nFROM d', ["a:latest", "d:latest"]),
        ("FROM a\nENV X=<<EOF\nFROM d", ["a:latest", "d:latest"]),
        ("FROM a\nRUN 3<<EOF\nFROM b\nEOF\nFROM d", ["a:latest", "d:latest"]),
        ("FROM a\nRUN x \\ # no continuation\nFROM d", ["a:latest", "d:latest"]),
        ("# escape=`\nFROM a\nRUN x \\\nFROM d", ["a:latest", "d:latest"]),
        ("# hello\n# escape=`\nFROM a\nRUN x \\\nFROM d", ["a:latest"]),
        ("FROM a\nONBUILD COPY --from=b / /", ["a:latest"]),
        ("FROM a AS x\nONBUILD COPY --from=b / /\nFROM x", ["a:latest", "b:latest"]),
        ('FROM a\nRUN --mount="type=bind,from=b,target=/x" y', ["a:latest", "b:latest"]),
        ('FROM a\nRUN --mount=type=bind,"from=b",target=/x y', ["a:latest", "b:latest"]),
        ("FROM a\nRUN --mount=from=0,target=/x y", ["a:latest", "0:latest"]),
        ("FROM a\nRUN echo --mount=from=b", ["a:latest"]),
        ("FROM a\nCOPY --link --from=b --chown=1 / /", ["a:latest", "b:latest"]),
        ("FROM a\nCOPY x --from=b /", ["a:latest"]),
        ("#!/usr/bin/env x\n# syntax=d/e:1\nFROM a", ["d/e:1", "a:latest"]),
        ("# syntax = d/e:1 and more\nFROM a", ["d/e:1", "a:latest"]),
        ("# a comment\n# syntax=d/e:1\nFROM a", ["a:latest"]),
    ],
)
def test_which_images(text: str, expected: list[str]) -> None:
    assert images(text) == expected


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        ({}, "ARG V=12\nFROM debian:$V", "debian:12"),
        ({"V": "11"}, "ARG V=12\nFROM debian:${V}", "debian:11"),
        ({"V": "11"}, "ARG V\nFROM debian:${V:-12}", "debian:11"),
        ({}, "ARG V\nFROM debian:${V:-12}", "debian:12"),
        ({}, "FROM debian:${V:-12}", "debian:12"),
        ({}, "ARG P\nFROM ${P}debian:12", "debian:12"),
        ({}, "ARG A=1.2.3\nARG B=${A%.*}\nFROM x:$B", "x:1.2"),
        ({}, "ARG A=1.2.3\nFROM x:${A%%.*}-${A#*.}-${A##*.}", "x:1-2.3-3"),
        ({}, "ARG A=1.2.3\nFROM x:${A/./_}-${A//./_}", "x:1_2.3-1_2_3"),
        ({}, "ARG A=x B=y\nFROM r/$A-$B:${A:+12}", "r/x-y:12"),
        ({}, "ARG A='a b'\nARG B=\"${A% b}\"\nFROM x:$B", "x:a"),
        ({"TARGETPLATFORM": "linux/amd64", "TARGETARCH": "q"}, "FROM x:$TARGETARCH", "x:q"),
        ({}, "ARG UNUSED=$HOME/x\nFROM x", "x:latest"),
    ],
)
def test_arguments(arguments: dict[str, str], text: str, expected: str) -> None:
    assert images(text, arguments) == [expected]


def test_platforms() -> None:
    text = """\
FROM --platform=$BUILDPLATFORM a AS build
COPY --from=copied / /
FROM --platform=linux/arm64 b
FROM --platform=$TARGETPLATFORM c
FROM --platform=linux/$TARGETARCH d
"""
    assert [(image, architectures) for image, architectures, _, _ in found(text)] == [
        ("a:latest", "amd64"),
        ("copied:latest", "amd64+arm64"),
        ("b:latest", "arm64"),
        ("c:latest", "amd64+arm64"),
        ("d:latest", "amd64+arm64"),
    ]


def test_a_frontend_given_as_argument_wins() -> None:
    assert images("# syntax=a\nFROM b", {"BUILDKIT_SYNTAX": "c:1"}) == ["c:1", "b:latest"]
    assert images("FROM b", {"BUILDKIT_SYNTAX": "c:1"}) == ["c:1", "b:latest"]


def test_named_contexts_stand_for_stages_and_images() -> None:
    text = "FROM debian:12 AS base\nFROM base\nCOPY --from=files / /\nCOPY --from=tools / /"
    assert images(text) == ["debian:12", "files:latest", "tools:latest"]
    assert images(text, files="./files", tools="docker-image://ghcr.io/t:1") == ["debian:12", "ghcr.io/t:1"]
    assert images(text, base="docker-image://gcc:12", files="x", tools="target:other") == ["gcc:12"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("FROM debian:$V", 1, "nothing gives `V` a value"),
        ("FROM a\nARG V=1\nFROM debian:$V", 3, "nothing gives `V` a value"),
        ("ARG B=$A\nFROM x:$B", 2, "`$A`: nothing gives `A` a value here (line 1)"),
        ("ARG V\n\nFROM $V", 3, "the image `$V` is empty"),
        ("ARG V\nFROM debian:$V", 2, "`V` has no value"),
        ("FROM debian:${V:?needed}", 1, "`V` has no value: needed"),
        ("FROM ${V", 1, "`${V`"),
        ("FROM ${V!x}", 1, "`!` after `V` is no substitution"),
        ("FROM 'x", 1, "quote is not closed"),
        ("FROM Debian", 1, "`Debian`"),
        ("FROM a b", 1, "expected FROM IMAGE [AS NAME]"),
        ("FROM a AS -x", 1, "`-x` cannot be the name of a stage"),
        ("FROM --platform=$P a", 1, "nothing gives `P` a value"),
        ("ARG P\nFROM --platform=$P a", 2, "the platform `$P` is empty"),
        ("FROM --platform=strange/x a", 1, "no known operating system"),
        ("RUN x", 1, "`RUN` stands before the first FROM"),
        ("FROM a\nCOPY --from=$X / /", 2, "BuildKit expands no variables in COPY --from"),
        ("FROM a\n\nRUN --mount=from=${X} y", 3, "BuildKit expands no variables in RUN --mount"),
        ("FROM a\nCOPY --from=3 / /", 2, "no stage number 3"),
        ("FROM a\nRUN <<EOF\nx", 2, "the heredoc `EOF` does not end"),
        ("FROM a AS x\nONBUILD FROM x\nFROM x", 2, "`FROM` cannot be what ONBUILD triggers"),
        ("FROM a\nONBUILD onbuild RUN x", 2, "`ONBUILD` cannot be what ONBUILD triggers"),
        ("FROM a\nONBUILD MAINTAINER me", 2, "`MAINTAINER` cannot be what ONBUILD triggers"),
        ("FROM " + "${a:-" * 2000 + "}" * 2000, 1, "more than 100 substitutions inside one another"),
        ("# escape=x\nFROM a", 1, "the escape character is `x`"),
        ("# syntax=A\nFROM a", 1, "`A`"),
    ],
)
def test_what_cannot_be_resolved_is_named_with_file_and_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        images(text)
    assert f"`Dockerfile:{line}`" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only\n# comments", "ARG A=1"])
def test_no_dockerfile(text: str) -> None:
    with pytest.raises(UsageError, match="has no FROM"):
        images(text)


def test_what_is_taken_as_empty_is_said() -> None:
    (use,) = uses("ARG REG\nFROM ${REG}debian:12", "D", BuildSettings((AMD64,), (AMD64,)))
    assert (str(use.reference), use.empty) == ("docker.io/library/debian:12", ("REG",))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$A", "1.2.3"), ("${A}x", "1.2.3x"), ("\\$A", "$A"), ("'$A'", "$A"), ('"$A"', "1.2.3"), ('"\\$A"', "$A"),
        ('"\\a"', "\\a"), ("$", "$"), ("$(x)", "$(x)"), ("${E:-x}", "x"), ("${E-x}", ""), ("${N-x}", "x"),
        ("${A:+x}", "x"), ("${E:+x}", ""), ("${E+x}", "x"), ("${N:-${A:-z}}", "1.2.3"), ("${N:-'}'}", "}"),
        ("${A#1}", ".2.3"), ("${A#?}", ".2.3"), ("${A%?}", "1.2."), ("${A%\\*}", "1.2.3"), ("${A/2/\\/}", "1.\\/.3"),
        ("${A//?/z}", "zzzzz"), ("$1x", "x"), ("${A##*}", ""),
    ],
)  # fmt: skip
def test_expansion(word: str, expected: str) -> None:
    assert Expansion(word, {"A": "1.2.3", "E": ""}).text == expected


def test_substitutions_inside_one_another() -> None:
    assert Expansion("${N:-" * 100 + "x" + "}" * 100, {}).text == "x"
    assert Expansion("${N:-x}" * 200, {}).text == "x" * 200


@given(st.text(alphabet="FROMARGUNCPYdeb12:=$<{}\\'\"#\n\t -/@`", max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception than UsageError, and lines that are there."""
    try:
        instructions, _ = parse(text, "D")
        uses(text, "D", BuildSettings((AMD64, ARM64), (AMD64,)))
    except UsageError:
        return
    assert all(1 <= instruction.line <= text.count("\n") + 1 for instruction in instructions)
