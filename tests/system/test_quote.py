"""Untrusted text is printed in one line, bounded, without escape codes."""

import json

import pytest

from pengi_rt.errors import AudioError, PengiError, UsageError
from pengi_rt.system.quote import (
    LONGEST,
    LONGEST_MESSAGE,
    one_line,
    printable,
    printable_json,
    shown,
)


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


def test_a_long_name_is_shortened_in_the_middle() -> None:
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Hündin bellt 犬 a\\b", "Hündin bellt 犬 a\\b"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b]0;x\x07\x9b31m\x7f\0", r"\x1b]0;x\x07\x9b31m\x7f\x00"),
        ("a\u2028b\u2029c\u202ed\x85e", r"a\u2028b\u2029c\u202ed\x85e"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_printable_text_is_one_line(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_printable_text_is_whole() -> None:
    assert printable("x\n" * 10**5) == r"x\n" * 10**5


@pytest.mark.parametrize("indent", [None, 1])
def test_printable_json_reads_as_the_same(indent: int | None) -> None:
    every = "".join(chr(number) for number in (*range(0x3000), *range(0xDC80, 0xDD00), 0xE0001))
    value = {every: [every, 'a"\\'], "犬": "é"}
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(text) == value
    assert all(line.isprintable() for line in text.split("\n"))
    assert "犬" in text
    assert len(text.splitlines()) == (1 if indent is None else 7)


def test_every_error_is_one_short_line() -> None:
    for kind in (PengiError, UsageError, AudioError):
        said = str(kind("a\nb\x1b[31m: " + "x" * 10**6))
        assert said.startswith(r"a\nb\x1b[31m: ")
        assert said.isprintable()
        assert len(said) < 2 * LONGEST_MESSAGE
    assert str(UsageError("say\\n this")) == "say\\n this"
