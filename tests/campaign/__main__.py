"""See the package. Ends with 1 when anything was wrong."""

from __future__ import annotations

import argparse
import importlib
import random
import signal
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.campaign", description=__doc__)
    parser.add_argument("what", choices=["create", "push", "install"])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", help="this kind of fault only")
    options = parser.parse_args()
    module = importlib.import_module(f"tests.campaign.{options.what}")
    kinds = [options.kind] if options.kind else list(module.KINDS)
    random.Random(options.seed).shuffle(kinds)
    # A shell's background jobs ignore Ctrl-C, and so would the commands under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    outcomes = []
    with module.Campaign(options.seed) as campaign:
        for number in range(options.runs):
            outcome = campaign.run(kinds[number % len(kinds)])
            outcomes.append(outcome)
            wrong = "; ".join(outcome.problems)
            print(f"{number + 1:4} {outcome.kind:20} {'WRONG: ' + wrong if wrong else 'right'}", flush=True)
    print(f"\nseed {options.seed}, {options.runs} runs, {time.monotonic() - begun:.0f} s\n")
    print(module.table(outcomes))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
