"""What differs between operating systems, chosen here and nowhere else.

`posix.py` and `windows.py` have the same functions and constants: `system.read_at(...)` is that of the system that this
runs on. Nobody else imports either of them, or asks which system it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.name != "nt":
    from bundles.runtime import posix as system
else:
    from bundles.runtime import windows as system

__all__ = ["system"]
