"""What was recorded on its way into an archive: its images are those of then, its contents are all there.

A record whose contents were left behind (it may be kept in git without its blobs) is completed from the network: what
comes must be what came then. What has changed since is named, all of it at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from bundler.definition.record import Record, record_again
from bundler.definition.spec import Spec
from bundler.planning.plan import Plan
from bundler.sources.mirrors import Endpoint
from bundler.sources.oci_layout import LayoutSource
from bundler.sources.pins import PinnedSource
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundler.sources.spool import SpooledSource
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.url import hides
from bundles.errors import BundleError, ContentError, Problem
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command
from bundles.runtime.progress import Progress

_CHUNK = 1 << 20
# A repository that no registry has: what is asked of it comes from the addresses of the descriptor.
_NOWHERE = Reference("web.invalid", "content", "latest")
_SHOWN = 5


def with_layouts(source: Source, spec: Spec) -> Source:
    """Return the source with what records and caches on this machine have, and with their images as they were then."""
    again = {reference: record_again(record.path) for record in spec.records for reference in record.pins}
    pins = {reference: digest for record in spec.records for reference, digest in record.pins.items()}
    pinned = PinnedSource(source, pins, again.__getitem__, "recorded") if pins else source
    return LayoutSource(pinned, spec.layouts) if spec.layouts else pinned


def complete(plan: Plan, records: Sequence[Record], local: SpooledSource, progress: Progress) -> None:
    """Fetch contents that records lack, so that `local` has them.

    Raises:
        ContentError: what comes now is not what came then, or cannot be had; every URL of which that is so is named.
    """
    for record in records:
        answers = {answer.content.digest: answer for answer in tape_of(record, plan) if answer.content}
        absent = [answer for answer in answers.values() if answer.content and not record.has(answer.content)]
        if absent:
            progress.message(f"fetching {len(absent)} contents that `{record.path}` lacks")
        problems = [problem for answer in absent for problem in _fetch(answer, local)]
        if problems:
            raise ContentError(
                f"{len(problems)} of {len(answers)} contents of `{record.path}` are neither there nor on the network "
                "as they were recorded",
                hint=record_again(record.path),
                problems=problems,
            )


def tape_of(record: Record, plan: Plan) -> Tape:
    """Read what the network answered, of all pieces."""
    answers: list[Answer] = []
    for content in record.tapes.values():
        config = parse_manifest(plan.document(content.root.digest)).config
        answers += Tape.parse(content.read(config))
    return Tape(answers)


def _fetch(answer: Answer, local: SpooledSource) -> Iterator[Problem]:
    content = answer.content
    if content is None:
        return
    if hides(answer.url) or answer.login:
        yield Problem(answer.url, "it needs a login or a secret, which is not recorded")
        return
    wanted = Descriptor(content.media_type, content.digest, content.size, urls=(answer.url,))
    request = BlobRequest(_NOWHERE, wanted, avoid=frozenset({Endpoint(_NOWHERE.registry)}))
    try:
        with local.open_blob(request) as stream:
            came = local.spool.add(content.media_type, _pieces(stream))
    except BundleError as error:
        yield Problem(answer.url, error.message)
        return
    if came.digest != content.digest:
        yield Problem(answer.url, f"it has changed: it is {came.digest} now, recorded is {content.digest}")


def _pieces(stream: BlobStream) -> Iterator[bytes]:
    buffer = bytearray(_CHUNK)
    while count := stream.readinto(buffer):
        yield bytes(buffer[:count])


def check(plan: Plan, records: Sequence[Record], *, recompressed: bool) -> list[str]:
    """Compare the images of a plan with those of records, and records with each other; return what people should know.

    Raises:
        ContentError: an image is another one: a lock, or the Docker on this machine, says so.
    """
    planned = {image.reference: image.root.digest for image in plan.images}
    for record in records:
        for reference, digest in record.pins.items():
            found = planned.get(reference, digest)
            if found != digest:
                name = reference.familiar
                raise ContentError(
                    f"`{name}` is to be {found}, and `{record.path}` was recorded with {digest}",
                    hint=f"{own_command('lock')} --upgrade {name} takes the recorded one; or "
                    + record_again(record.path),
                )
    notes = list(_disagreements({str(record.path): tape_of(record, plan) for record in records}))
    if recompressed and any(record.caches for record in records):
        notes.append("the caches of records do not fit recompressed images: their steps run again")
    return notes


def _disagreements(tapes: Mapping[str, Tape]) -> Iterator[str]:
    """Say what records do not agree on: a build cannot choose with which of them it is answered."""
    found: dict[tuple[object, ...], dict[Optional[Digest], str]] = defaultdict(dict)
    for name, tape in tapes.items():
        for answer in tape:
            digest = answer.content.digest if answer.content else None
            request = (answer.method, answer.url, answer.body, *sorted(answer.asked.items()))
            found[request].setdefault(digest, name)
    urls: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, contents in found.items():
        if len(contents) > 1:
            urls[tuple(contents.values())].append(str(key[1]))
    for names, different in urls.items():
        shown = ", ".join(different[:_SHOWN]) + (f" and {len(different) - _SHOWN} more" if different[_SHOWN:] else "")
        yield (
            f"{' and '.join(names)} were recorded at different times and differ in {shown}: "
            f"the host answers with those of {names[0]}, and a build of the others may miss what belongs to its own; "
            "record them together: bundle record bundle.toml"
        )
