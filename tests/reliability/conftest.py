"""Attacks: seconds of them in every run of the tests, minutes by ``make attack``."""

import os
import random

import pytest


@pytest.fixture(scope="session")
def rounds() -> int:
    """How many times longer an attack is than in a usual run: 50 for ``make attack``."""
    return 50 if os.environ.get("PENGI_RT_ATTACK") else 1


@pytest.fixture
def rng() -> random.Random:
    """The same attack in every run."""
    return random.Random(20_261_201)
