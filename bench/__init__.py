"""How fast, how large, how far: create and install measured beside their peers. `make bench`, see docs/performance.md.

Programs, not tests: nothing here asserts a time. Needs the testbed (tests/testbed) and root.
"""
