"""The docker command of the host, asked from inside a container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from installer.host.relay import Relay
from tests.support import ROOT


def test_the_relay_carries_words_input_and_results(tmp_path: Path) -> None:
    """The other side is the function of install.sh itself."""
    script = (ROOT / "installer" / "install.sh").read_text()
    body = script[script.index("relay() {") : script.index("clean_up() {")]
    for name in ("ask", "answer"):
        os.mkfifo(tmp_path / name)
    with subprocess.Popen(["dash", "-euc", f"shared={tmp_path}\n{body}\nrelay"], stdin=subprocess.DEVNULL) as shell:
        relay = Relay(tmp_path)
        done = relay.run(
            ["sh", "-c", 'cat; printf "[%s]" "$@"; echo oops >&2; exit 3', "x", "a b", "it's\n$HOME *", ""], "in\n"
        )
        assert (done.code, done.stdout, done.stderr) == (3, "in\n[a b][it's\n$HOME *][]", "oops\n")
        assert relay.run(["no-such-command"], "").code == 127
        assert relay.run(["true"], "") == type(done)(0, "", "")
        (tmp_path / "ask").write_text("end\n")
        assert shell.wait(10) == 0
