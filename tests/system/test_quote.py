"""What strangers write is printed in one line, bounded, without escape codes."""

import pytest

from pengi_rt.system.quote import LONGEST, one_line, shown


@pytest.mark.parametrize("name", ["dog.wav", "Hündin bellt.wav", "犬.flac", "a 'b' \"c\".wav"])
def test_a_printable_name_stays_as_it_is(name: str) -> None:
    assert one_line(name) == name


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "a\rb", "\u202egnp.wav", "\udcff.wav", "", "a\0b", "\u2028"]
)
def test_anything_else_is_quoted_and_escaped(name: str) -> None:
    line = one_line(name)
    assert line.isprintable()
    assert line == ascii(name)


def test_a_megabyte_is_shortened_in_the_middle() -> None:
    line = one_line("begin" + "x" * 10**6 + "end")
    assert line.startswith("begin")
    assert line.endswith("end")
    assert len(line) <= LONGEST + 1
    assert len(one_line("\x1b" * 10**6)) < 5 * LONGEST


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


VALUES = {
    "escape": "\x1b[2J\n",
    "long": "x" * 10**6,
    "integer": 10**5000,
    "nested": [[["a"] * 99] * 99] * 99,
    "mapping": {"k": "\n"},
    "hostile": Hostile(),
    "bytes": b"\0",
}


@pytest.mark.parametrize("name", VALUES)
def test_any_value_is_one_short_line(name: str) -> None:
    line = shown(VALUES[name])
    assert line.isprintable()
    assert len(line) <= LONGEST + 1


def test_small_values_read_as_python_writes_them() -> None:
    assert shown("a\tb") == "'a\\tb'"
    assert shown(12) == "12"
    assert shown(b"RIFF") == "b'RIFF'"
