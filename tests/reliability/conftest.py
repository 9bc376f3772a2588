"""Attacks: seconds per normal test run, minutes with ``make attack``."""

import os
import random

import pytest


@pytest.fixture(scope="session")
def rounds() -> int:
    """How many times longer an attack is than in a normal run: 50 for ``make attack``."""
    return 50 if os.environ.get("PENGI_RT_ATTACK") else 1


@pytest.fixture
def rng() -> random.Random:
    """A generator with a fixed seed: every run makes the same attack."""
    return random.Random(20_261_201)
