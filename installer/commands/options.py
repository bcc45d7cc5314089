"""Options that `install` and `join` share: what of a host's builder is chosen in both."""

from __future__ import annotations

from typing import Any, Callable

import click


def builder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --node, --no-replay, --direct and --system, in this order."""
    for option in (
        click.option(
            "--system", is_flag=True, help="Put the buildx plugin where all users of this host have it (as root)."
        ),
        click.option(
            "--direct",
            metavar="HOST",
            multiple=True,
            help="With recorded builds: a host that builds reach themselves, such as a mirror of the site.",
        ),
        click.option("--no-replay", is_flag=True, help="Do not replay what recorded builds took from the network."),
        click.option(
            "--node",
            "nodes",
            metavar="ssh://[USER@]HOST[:PORT]",
            multiple=True,
            help="Another machine with Docker, for the platform that it runs. May be given several times.",
        ),
    ):
        command = option(command)
    return command
