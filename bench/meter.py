"""Run one command and print what it cost, as JSON. A small process of its own, because the memory of whoever starts a
command counts in what the kernel says of the command.

    python -I -S meter.py COMMAND [ARGUMENT...]      its output goes to stderr
"""

import json
import os
import signal
import subprocess
import sys
import time


def main() -> None:
    begun = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status, usage = os.wait4(process.pid, 0)
    cost = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.perf_counter() - begun,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
        "written": usage.ru_oublock * 512,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
