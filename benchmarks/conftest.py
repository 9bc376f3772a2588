"""Benchmarks run once as smoke tests, and are timed with ``--benchmark-only``."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.benchmark_only:
        config.option.benchmark_disable = True
