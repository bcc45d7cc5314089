"""Reading manifests and lists from a registry: what creating and installing share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional

from bundles.errors import ContentError, UsageError
from bundles.oci.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_MANIFEST_SIZE, media_type_of, parse_index, parse_json
from bundles.registry.auth import pull_scope
from bundles.registry.transport import Transport
from bundles.registry.urls import join
from bundles.registry.web_page import refuse_web_page

MANIFEST_ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
_MAX_LIST_SIZE = 16 << 20
_MAX_PAGES = 100


def fetch_manifest(transport: Transport, host: str, repository: str, selector: str) -> tuple[Descriptor, bytes]:
    """Fetch a manifest or index, as the registry keeps it; its digest is computed from the bytes and checked.

    Args:
        transport: the way there.
        host: the registry.
        repository: of the manifest.
        selector: a tag or a digest.

    Raises:
        ContentError: the bytes differ from the digest asked for or announced, or are no manifest.
        NetworkError: as `Transport.request` does.
    """
    answer = transport.fetch(
        "GET",
        host,
        f"/v2/{repository}/manifests/{selector}",
        scope=pull_scope(repository),
        headers={"Accept": MANIFEST_ACCEPT},
        limit=MAX_MANIFEST_SIZE,
    )
    computed = Digest.of(answer.data)
    what = f"the manifest `{selector}` of `{host}/{repository}`"
    refuse_web_page(answer.url, answer.headers, answer.data, what)
    for digest, origin in ((digest_or_none(selector), "asked for"), (announced_digest(answer.headers), "announced")):
        if digest and digest != computed:
            raise ContentError(f"{what} has the digest {computed}, but {digest} was {origin}")
    try:
        media_type = media_type_of(answer.data, answer.headers.get("Content-Type", ""))
    except UsageError as error:
        why = error.message
        raise ContentError(f"{what} cannot be used: {why}", status=answer.status, cause=why) from None
    return Descriptor(media_type, computed, len(answer.data)), answer.data


def fetch_list(
    transport: Transport, host: str, path: str, key: str, *, scope: str, pages: int, retry: bool = True
) -> Iterator[str]:
    """Fetch the entries of a paginated list, such as `tags` of `/v2/NAME/tags/list`, from at most so many pages.

    Raises:
        ContentError: the registry sent something else.
        NetworkError: as `Transport.request` does.
    """
    url: Optional[str] = path
    while url and pages:
        pages -= 1
        answer = transport.fetch("GET", host, url, scope=scope, limit=_MAX_LIST_SIZE, retry=retry)
        refuse_web_page(answer.url, answer.headers, answer.data, f"the list of {key} from `{host}`")
        try:
            entries = parse_json(answer.data, f"the list of {key} from `{host}`").get(key) or []
        except UsageError as error:
            raise ContentError(error.message) from None
        if not isinstance(entries, list):
            raise ContentError(f"the list of {key} from `{host}` is no list")
        yield from (entry for entry in entries if isinstance(entry, str))
        url = _next_page(answer.url, answer.headers.get("Link", ""))


def fetch_referrers(transport: Transport, host: str, repository: str, digest: Digest) -> tuple[bytes, ...]:
    """Fetch the pages of the list of referrers of a manifest, each an image index.

    Raises:
        ContentError: the registry sent something else, which has a status then, or has more than 100 pages.
        NetworkError: as `Transport.request` does; 404 where there are no such lists.
    """
    pages: list[bytes] = []
    url: Optional[str] = f"/v2/{repository}/referrers/{digest}"
    while url:
        answer = transport.fetch(
            "GET", host, url, scope=pull_scope(repository), headers={"Accept": OCI_INDEX}, limit=MAX_MANIFEST_SIZE
        )
        what = f"the referrers of {digest} from `{host}`"
        refuse_web_page(answer.url, answer.headers, answer.data, what)
        try:
            parse_index(answer.data)
        except UsageError as error:
            raise ContentError(f"{what}: {error.message}", status=answer.status) from None
        pages.append(answer.data)
        if len(pages) > _MAX_PAGES:
            raise ContentError(f"{what} have more than {_MAX_PAGES} pages")
        url = _next_page(answer.url, answer.headers.get("Link", ""))
    return tuple(pages)


def announced_digest(headers: Mapping[str, str]) -> Optional[Digest]:
    """Return Docker-Content-Digest, when it is there and of an algorithm that is checked here."""
    return digest_or_none(headers.get("Docker-Content-Digest", ""))


def digest_or_none(text: str) -> Optional[Digest]:
    """Return the digest that `text` is, or None when it is something else, such as a tag."""
    try:
        return Digest(text)
    except UsageError:
        return None


def _next_page(url: str, link: str) -> Optional[str]:
    """Return the address of the next page in a Link header (RFC 8288)."""
    if not link:
        return None
    from requests.utils import parse_header_links  # takes 40 ms, and few lists have a second page

    return next((join(url, each["url"]) for each in parse_header_links(link) if each.get("rel") == "next"), None)
