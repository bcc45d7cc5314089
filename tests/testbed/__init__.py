"""A testbed that is real: an origin that stands in for the internet, and air-gapped hosts with a Docker engine.

python3 -m tests.testbed up        make what is missing and start the origin at 127.0.0.1:5555

from tests.testbed import Host
with Host() as host:
    host.run("docker", "info")
"""

from .binfmt import binfmt_clear, binfmt_restore, binfmt_state, binfmt_without
from .errors import CommandError, SetupError
from .host import Host
from .origin import ADDRESS as ORIGIN
from .origin import origin_digests, start_origin, stop_origin

__all__ = [
    "ORIGIN",
    "CommandError",
    "Host",
    "SetupError",
    "binfmt_clear",
    "binfmt_restore",
    "binfmt_state",
    "binfmt_without",
    "origin_digests",
    "start_origin",
    "stop_origin",
]
