"""Fault campaigns: the same job many times, each time with another fault at a random moment, then run again.

python3 -m tests.campaign create --runs 200 --seed 1
python3 -m tests.campaign install --runs 200 --seed 1

The figures are kept in docs/reliability.md. Short versions are among the tests.
"""
