"""Is the host ready for a job? The problems that no single step sees, each with the command that fixes it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.reader import Archive
from bundles.errors import HostError, Problem, UsageError, reason
from bundles.oci.platform import Platform
from bundles.registry.certificates import find, standard_directories
from bundles.registry.proxies import Proxies
from bundles.registry.urls import Origin
from bundles.runtime.program import own_command, quote
from bundles.runtime.sizes import human_size
from installer.host.docker.engine import OLDEST_ENGINE, EngineInfo
from installer.host.files import device_of, is_seen, read_optional, usable_size
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.model.job import DesiredState, Job, Options, S3Options, is_directory
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.installed import (
    installed_access,
    installed_address,
    installed_data,
    other_data,
    own_access,
)
from installer.model.registry.storage import DEFAULT_REGION, S3Storage, is_bucket
from installer.model.step import Step
from installer.receipt.receipt import Receipt
from installer.registry.trust import is_trusted, public_authorities, system_authorities

# Docker copies an image it loads to a temporary directory first, and its layers grow when they are unpacked.
_UNPACKED = 4
_SPARE = 64 << 20
_BUCKET = "--storage s3://BUCKET/PREFIX --s3-endpoint https://HOST[:PORT]"


def settle(archive: Archive, options: Options, host: Host) -> tuple[Job, Optional[EngineInfo], list[Problem]]:
    """Return what is to be done, what the engine says of itself, and the problems of the host as a whole.

    Without an engine the job is settled as if nothing had been installed before, so that the rest can still be checked.
    """
    _refuse_remote(host, archive)
    problems: list[Problem] = []
    if not host.cli.is_installed:
        problems.append(Problem("docker", "there is no docker command in PATH", "install the package docker-ce-cli"))
    info, container = None, None
    try:
        info = host.engine.info()
        container = host.engine.container(REGISTRY_CONTAINER)
    except HostError as error:
        problems.append(error.as_problem("Docker"))
    platform = info.platform if info else Platform("linux", os.uname().machine)
    options = _as_before(options, host)
    options = dataclasses.replace(options, storage=_storage(options, installed_data(container), host))
    job = Job.of(archive, options, platform, installed_address(container), installed_data(container))
    if not job.site:
        job = dataclasses.replace(job, access=_own_access(options, installed_access(container, host.places), host))
    if info is not None:
        problems += _engine_problems(archive, host, info)
        problems += network_problems(job, host, info)
    problems += _platform_problems(archive, options) + _clashes(job) + redirect_problems(job)
    return job, info, problems


def _own_access(options: Options, installed: Optional[Access], host: Host) -> Access:
    """Settle how our own registry is spoken to: as was asked for, else as before.

    Raises:
        UsageError: a login is wanted, and no TLS.
    """
    before = installed
    if before is None:
        receipt = Receipt.known(host.places)
        before = receipt.state.access if receipt and not receipt.state.site else PLAIN
    tls = options.tls if options.tls is not None else before.tls or options.certificate is not None
    if not tls:
        if options.login:
            why = "over plain HTTP everybody on the way reads the password"
            raise UsageError(f"--login needs --tls: {why}", hint="install with --tls --login")
        return PLAIN
    login = options.login if options.login is not None else before.password is not None
    if options.certificate:
        return own_access(host.places, authority=options.ca_file is not None, login=login)
    return own_access(host.places, authority=not before.tls or before.authority is not None, login=login)


def _storage(options: Options, installed: Optional[str], host: Host) -> Optional[S3Storage]:
    """Settle the bucket of our own registry: as was asked for, else as before; None where it has none.

    Raises:
        UsageError: what was asked for says too little, or goes with no bucket.
    """
    given, receipt = options.s3, Receipt.known(host.places)
    if options.site and (given != S3Options() or options.s3_keys):
        raise UsageError(
            f"the images of this host are at `{options.site}`: no registry of its own is here to keep its data in a "
            "bucket",
            hint=f"leave out the options of an S3 storage; or, for a registry of its own: {_BUCKET}",
        )
    if options.site or options.data:
        return None
    before = receipt.state.storage if receipt else None
    if installed is not None and installed != str(before):
        # The container knows better, whoever made it.
        before = None
    if given.place is None and before is None:
        if given != S3Options() or options.s3_keys:
            raise UsageError("there is no bucket for the other options of an S3 storage", hint=_BUCKET)
        if installed is not None and is_bucket(installed):
            raise UsageError(
                f"the registry has its data in `{installed}`, and the receipt that says how that is reached is gone",
                hint=f"--storage {installed} --s3-endpoint URL",
            )
        return None
    endpoint = given.endpoint or (before.endpoint if before else None)
    if endpoint is None:
        raise UsageError("--storage needs --s3-endpoint: where is that bucket?", hint=_BUCKET)
    bucket, prefix = given.place or (before.bucket, before.prefix)  # type: ignore[union-attr]
    # The CA is that of an endpoint.
    kept = before.authority if before and before.endpoint == endpoint else None
    authority = str(host.places.storage_authority) if given.authority else kept
    redirect = given.redirect if given.redirect is not None else bool(before and before.redirect)
    if redirect and authority:
        raise UsageError(
            "--s3-redirect does not go with --s3-ca: who pulls is led to the storage, and has to trust it",
            hint="give the storage a certificate that everybody trusts, or --no-s3-redirect",
        )
    region = given.region or (before.region if before else DEFAULT_REGION)
    return S3Storage(bucket, prefix, endpoint, region, redirect, authority)


def _as_before(options: Options, host: Host) -> Options:
    """Complete what was asked for with what was installed before: a registry of the site, and its CA."""
    before = Receipt.known(host.places)
    if before and options.cluster is None and not options.without_cluster:
        options = dataclasses.replace(options, cluster=before.state.cluster)
    known = before.state if before and before.state.site else None
    own = options.registry or options.data or options.tls or options.login or options.certificate or options.s3.place
    if known and not (options.site or own):
        options = dataclasses.replace(options, site=known.site, access=known.access)
    if options.site is None or not options.access.tls:
        return options
    is_same = known is not None and known.site is not None and known.site.host == options.site.host
    kept = known.access.authority if known and is_same else None
    found = _authorities(options.site.host, options.ca_file, Path(kept) if kept else None, host)
    access = dataclasses.replace(options.access, authority=str(host.places.site_authority) if found else None)
    return dataclasses.replace(options, access=access, authorities=found or None)


def _authorities(registry: str, given: Optional[Path], kept: Optional[Path], host: Host) -> bytes:
    """Choose what the builder has to trust to reach a registry of the site, besides what everybody trusts.

    The CA that was given, else the first that is enough of: the one from before, none, Docker's own for that registry,
    all of this system's. A builder has a system of its own, which trusts nobody because this one does.
    """
    if given:
        return _read(given)
    origin = Origin.of(f"https://{registry}")
    before = (read_optional(kept) or b"") if kept else b""
    public = public_authorities()
    candidates: tuple[Callable[[], bytes], ...] = (
        lambda: before,
        lambda: b"",
        lambda: b"\n".join(_read(file) for file in find(standard_directories(), origin).authorities),
        lambda: system_authorities(host.places.root),
    )
    for candidate in candidates:
        found = candidate()
        trusted = is_trusted(origin, public + found)
        if trusted is None:
            break
        if trusted:
            return found
    # The check of the destination says why it does not answer, or is not trusted.
    return before


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"the CA file `{file}` cannot be read: {reason(error)}") from None


def as_it_runs(job: Job, host: Host) -> Optional[Job]:
    """Return the job with our own registry spoken to as it is now; None where that is as it is to be."""
    access: Optional[Access] = None
    with contextlib.suppress(HostError):
        access = None if job.site else installed_access(host.engine.container(REGISTRY_CONTAINER), host.places)
    return None if access is None or access == job.access else dataclasses.replace(job, access=access)


def _refuse_remote(host: Host, archive: Archive) -> None:
    """Stop at an engine on another machine: nothing that could be looked at here would say anything about that one.

    A TCP address counts as one, 127.0.0.1 too: it may well be the end of a tunnel.

    Raises:
        HostError: with what to do instead.
    """
    endpoint = host.engine.endpoint
    if endpoint.socket_path is not None:
        return
    there = "run it on that machine"
    if endpoint.host.startswith("ssh://"):
        target, _, port = endpoint.host[6:].rstrip("/").partition(":")
        options = f"-p {port} " if port else ""
        there = f"ssh {options}{target}, and run it there"
    source = f"the context `{endpoint.context}`" if endpoint.context != "default" else "DOCKER_HOST"
    name = archive.path.name
    raise HostError(
        f"Docker's engine is at `{endpoint.host}` ({source}), not on this host: the registry's port and data, the "
        "builder's settings and `docker push` to the registry's address belong to the machine where the engine runs",
        hint=f"copy `{name}` there, {there}: python3 {quote(name)} install; for this host's own engine: "
        "unset DOCKER_HOST DOCKER_CONTEXT; docker context use default",
    )


def data_place(job: Job, info: EngineInfo) -> Path:
    """Return the directory of the host whose file system holds the registry's data."""
    return Path(job.data if is_directory(job.data) else info.root)


def _engine_problems(archive: Archive, host: Host, info: EngineInfo) -> list[Problem]:
    problems = []
    if info.is_rootless:
        problems.append(
            Problem(
                "Docker",
                "the engine is rootless: its containers have a network of their own, where BuildKit does not find the "
                "registry at this host's address, and no access to the kernel's table of emulators",
                "use the system's engine: docker context use default; or: unset DOCKER_HOST",
            )
        )
    if info.is_old:
        problems.append(
            Problem("Docker", f"the engine is {info.version}: expected {OLDEST_ENGINE} or newer", "upgrade Docker")
        )
    offered = archive.manifest.host_platforms
    if info.platform.best_of(offered) is None:
        problems.append(
            Problem(
                "this host",
                f"it is {info.platform}, and the archive is for hosts of {', '.join(map(str, offered))}",
                f"bundle create ... --host-platform {info.platform}, where there is internet",
            )
        )
    return problems


def network_problems(state: DesiredState, host: Host, info: EngineInfo) -> list[Problem]:
    """Find what keeps the engine's containers from the registry, or the engine itself."""
    problems = []
    if not host.engine.has_bridge():
        problems.append(
            Problem(
                "Docker",
                'the engine has no network `bridge` (`"bridge": "none"` in its settings): no port can be '
                "published, and no builder reaches the registry",
                f"take `bridge` out of {quote(host.places.daemon_json)}, then: sudo systemctl restart docker",
            )
        )
    address, proxy = state.address, None
    asked = Origin("https" if state.access.tls else "http", address.host.strip("[]"), address.port)
    with contextlib.suppress(UsageError):
        # A registry of the site may well be behind the proxy; one of ours, which has short names, is on the LAN.
        proxy = None if state.site and not state.site.aliases else Proxies(variables=info.proxies).find(asked)
    if proxy is not None:
        without = ",".join(filter(None, (info.proxies.get("NO_PROXY"), asked.host)))
        problems.append(
            Problem(
                "Docker",
                f"the engine asks for everything through the proxy {proxy.host_port}, and {address} is not among "
                "what it asks directly: pulls from the registry and pushes to it would go there",
                f"add {asked.host} to its NO_PROXY ({quote(without)}), where HTTP_PROXY is: systemctl cat docker, or "
                f"`proxies` in {quote(host.places.daemon_json)}; then: sudo systemctl daemon-reload && sudo systemctl "
                "restart docker",
            )
        )
    return problems


def _platform_problems(archive: Archive, options: Options) -> list[Problem]:
    offered = archive.manifest.platforms
    show = own_command(f"inspect {quote(archive.path)}")
    return [
        Problem(f"--platform {platform}", f"the archive has {', '.join(map(str, offered))}", show)
        for platform in options.platforms
        if platform.best_of(offered) is None
    ]


def redirect_problems(state: DesiredState) -> list[Problem]:
    """Find whether the registry would lead who pulls from TLS to plain HTTP, where no client follows."""
    storage = None if state.site else state.storage
    if storage is None or not storage.redirect or not state.access.tls or storage.origin.scheme == "https":
        return []
    return [
        Problem(
            f"--s3-redirect to {storage.endpoint}",
            "the registry speaks TLS, and who pulls there is not led on to plain HTTP",
            "--no-s3-redirect; or give the storage TLS, with a certificate that everybody trusts",
        )
    ]


def _clashes(job: Job) -> list[Problem]:
    """Find images that would take each other's tag."""
    owners: dict[tuple[str, str], str] = {}
    problems = []
    for item in job.images:
        for repository in item.repositories if item.tag else ():
            key = (repository, str(item.tag))
            reference = str(item.image.reference)
            if owners.setdefault(key, reference) != reference:
                name = f"{job.destination.host}/{repository}:{item.tag}"
                problems.append(
                    Problem(name, f"both {owners[key]} and {reference} would be found there", "leave one of them out")
                )
    return problems


def has_other_data(job: Job, host: Host) -> bool:
    """Tell whether our registry keeps its data elsewhere than the job wants: then the step `registry` replaces it."""
    if job.site:
        return False
    with contextlib.suppress(HostError):
        return other_data(host.engine.container(REGISTRY_CONTAINER), job.data, job.storage) is not None
    return False


def _keeps_unseen_data(job: Job, host: Host) -> bool:
    """Tell whether the data is that of a registry of ours which does not serve it where it could be asked for it."""
    container = host.engine.container(REGISTRY_CONTAINER)
    if container is None:
        return False
    if installed_data(container) != job.data:
        # Perhaps it was used before, and is to be again.
        return _holds_data(job.data, host)
    return not container.is_running or installed_address(container) != job.address


def _holds_data(data: str, host: Host) -> bool:
    """Tell whether a registry seems to have kept its data there."""
    if is_directory(data):
        return is_seen(host.places.seen(Path(data)) / "docker" / "registry")
    return host.engine.has_volume(data)


def space_problems(job: Job, info: EngineInfo, host: Host, images: Sequence[Step], push: Step) -> list[Problem]:
    """Find where less is free than what is missing needs. Directories that cannot be seen are passed over.

    Args:
        images: the steps that load images into Docker.
        push: the one that fills the registry.
    """
    needs = {Path(info.image_root): _UNPACKED * sum(map(_missing_size, images))}
    if not job.site and not job.storage and not _keeps_unseen_data(job, host):
        place = data_place(job, info)
        needs[place] = needs.get(place, 0) + _missing_size(push)
    by_device: dict[int, tuple[Path, int]] = {}
    for place, size in needs.items():
        device = device_of(host.places.seen(place))
        by_device[device] = (place, by_device.get(device, (place, 0))[1] + size)
    problems = []
    for place, size in by_device.values():
        free = usable_size(host.places.seen(place))
        if size and free is not None and free < size + _SPARE:
            problems.append(
                Problem(
                    f"disk space for {place}",
                    f"{human_size(free)} are free, about {human_size(size + _SPARE)} are needed",
                    "docker system df shows what can go; or choose another place for images: --data DIR",
                )
            )
    return problems


def _missing_size(step: Step) -> int:
    return sum(change.size or 0 for change in step.look())
