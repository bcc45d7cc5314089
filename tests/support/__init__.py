"""What the tests stand on: made-up images and archives, a registry and an engine that fail when told to."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
