"""`bundle completion`: commands, options and file names behind the Tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bundles.errors import UsageError

_SHELLS = ("bash", "zsh", "fish")
# click looks for this variable when the program is called `bundle`.
_VARIABLE = "_BUNDLE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options and file names of `bundle`.

    \b
    bash   bundle completion bash > ~/.local/share/bash-completion/completions/bundle
    zsh    bundle completion zsh > ~/.zfunc/_bundle     (with fpath+=~/.zfunc before compinit)
    fish   bundle completion fish > ~/.config/fish/completions/bundle.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"there is no completion for `{shell}`")
    click.echo(found(ctx.find_root().command, {}, "bundle", _VARIABLE).source())
