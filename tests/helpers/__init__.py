"""Helpers of the tests: fakes, references, and the only places that know private names, limits and messages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
