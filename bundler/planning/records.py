"""What was recorded on its way into an archive: its images are those of then, its contents are all there.

A record whose contents were left behind (it may be kept in git without its blobs) is completed from the network: what
comes must be what came then. What has changed since is named, all of it at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from bundler.definition.record import Record, pins_of, record_again
from bundler.definition.spec import Spec
from bundler.planning.plan import Plan
from bundler.sources.mirrors import Endpoint
from bundler.sources.oci_layout import LayoutSource
from bundler.sources.pins import PinnedSource
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundler.sources.spool import SpooledSource
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.url import hides
from bundles.errors import ArchiveError, BundleError, ContentError, NetworkError, Problem
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.reference import Reference
from bundles.runtime.listing import listed
from bundles.runtime.program import own_command
from bundles.runtime.progress import Progress

_CHUNK = 1 << 20
# A repository that no registry has: what is asked of it comes from the addresses of the descriptor.
_NOWHERE = Reference("web.invalid", "content", "latest")
_SHOWN = 5


def with_layouts(source: Source, spec: Spec) -> Source:
    """Return the source with what records and caches on this machine have, and with their images as they were then."""
    pins = pins_of(spec.records)
    again = {reference: record_again(record.path) for record in spec.records for reference in pins_of([record])}
    pinned = PinnedSource(source, pins, again.__getitem__, "recorded") if pins else source
    return LayoutSource(pinned, spec.layouts) if spec.layouts else pinned


def complete(plan: Plan, records: Sequence[Record], local: SpooledSource, progress: Progress) -> None:
    """Fetch downloads that records lack, so that `local` has them.

    Raises:
        ContentError: what comes now is not what came then, or cannot be had; all of which that is so is named.
    """
    for record in records:
        tape = tape_of(record, plan)
        answers = {answer.content.digest: answer for answer in tape if answer.content}
        absent = [answer for answer in answers.values() if answer.content and not record.has(answer.content)]
        if absent:
            progress.message(f"fetching {len(absent)} contents that `{record.path}` lacks")
        problems = [problem for answer in absent for problem in _fetch(answer, tape, local)]
        problems += _lost_cache(record, plan)
        if problems:
            raise ContentError(
                f"`{record.path}` is not whole: {len(problems)} of its contents are neither there, nor on the network "
                "as they were recorded",
                hint=record_again(record.path),
                problems=problems,
            )


def _lost_cache(record: Record, plan: Plan) -> Iterator[Problem]:
    """Name caches of which layers are missing that no registry has: they are nowhere else."""
    fetched = {layer.digest for layer, repository in plan.layers if repository not in record.caches}
    for reference, content in record.caches.items():
        layers = parse_manifest(plan.document(content.root.digest)).layers
        lost = [layer for layer in layers if not record.has(layer) and layer.digest not in fetched]
        if lost:
            yield Problem(reference.familiar, f"{len(lost)} of its {len(layers)} layers are missing, and nowhere else")


def tape_of(record: Record, plan: Plan) -> Tape:
    """Read what the network answered, of all pieces."""
    answers: list[Answer] = []
    for content in record.tapes.values():
        config = parse_manifest(plan.document(content.root.digest)).config
        try:
            answers += Tape.parse(content.read(config))
        except ArchiveError as error:
            raise ContentError(f"`{record.path}`: {error.message}", hint=content.hint) from None
    return Tape(answers)


def _fetch(answer: Answer, tape: Tape, local: SpooledSource) -> Iterator[Problem]:
    content, url = answer.content, _address(answer, tape)
    if content is None:
        return
    if url is None:
        yield Problem(answer.url, "it needs a login or a secret, which is not recorded")
        return
    if answer.method != "GET" or answer.asked.get("accept", "*/*") not in ("", "*/*"):
        yield Problem(answer.url, "it was not asked for plainly, and another answer may come: only the record has it")
        return
    wanted = Descriptor(content.media_type, content.digest, content.size, urls=(url,))
    request = BlobRequest(_NOWHERE, wanted, avoid=frozenset({Endpoint(_NOWHERE.registry)}))
    try:
        with local.open_blob(request) as stream:
            came = local.spool.add(content.media_type, _pieces(stream))
    except BundleError as error:
        cause = error.cause if isinstance(error, NetworkError) else None
        yield Problem(answer.url, cause or error.message)
        return
    if came.digest != content.digest:
        yield Problem(answer.url, f"it has changed: it is {came.digest} now, recorded is {content.digest}")


def _address(answer: Answer, tape: Tape) -> Optional[str]:
    """Return where an answer can be had: a signed address through the redirect that led there; None for a login."""
    url, seen = answer.url, set[str]()
    while hides(url) and url not in seen:
        seen.add(url)
        url = next((other.url for other in tape if other.headers.get("location") == url), url)
    return None if answer.login or hides(url) else url


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
    pins = pins_of(records)
    for reference, digest in pins.items():
        found = planned.get(reference, digest)
        if found != digest:
            name = reference.familiar
            raise ContentError(
                f"`{name}` is to be {found}, and was recorded as {digest}",
                hint=f"with a bundle.lock: {own_command('lock')} --upgrade {name} takes the recorded one",
            )
    notes = [
        f"{image.reference.familiar} is {pins[image.reference]}, and was {image.digest} in a build of {record.path}: "
        "that one is there by its digest, and a FROM without it gets the other"
        for record in records
        for image in record.recorded.images
        if pins.get(image.reference, image.digest) != image.digest
    ]
    notes += _disagreements({str(record.path): tape_of(record, plan) for record in records})
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
        yield (
            f"{' and '.join(names)} were recorded at different times and differ in {listed(different, _SHOWN)}: "
            f"the host answers with those of {names[0]}, and a build of the others may miss what belongs to its own; "
            f"record them together: {own_command('record')} bundle.toml"
        )
