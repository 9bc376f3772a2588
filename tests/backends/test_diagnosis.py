"""The diagnosis knows every backend; the rest is tested in tests/cli/verbs/test_doctor.py."""

from pengi_rt.backends.diagnosis import diagnose
from pengi_rt.config.backend import backends


def test_backends_are_those_of_the_engine() -> None:
    names = [spec.name for spec in (*backends(), *backends(later=True))]
    assert list(diagnose().backends) == names
