"""Finding recordings: folders, patterns, lists, circular links, and what is refused."""

import errno
import glob
import io
import os
import random
import sys
from pathlib import Path

import pytest
from encoded import encode, noise

from pengi_rt.audio.find import find_recordings as _find
from pengi_rt.audio.recording import load_windows
from pengi_rt.audio.suffixes import SUFFIXES
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError, InputError, PengiError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find_recordings(names: list[str]) -> list[str]:
    return _find(names).paths


def _make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _one_line(names: list[str], kind: type[PengiError] = AudioError) -> str:
    with pytest.raises(kind) as caught:
        find_recordings(names)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_named_files_are_used_as_they_are() -> None:
    _make("a.wav", "notes.txt")
    names = ["b.wav", "-", "a.wav", "notes.txt", "a.wav", "", "/nowhere/c.mp3", "x" * 300 + ".wav"]
    assert find_recordings(names) == names
    assert find_recordings([]) == []


def test_folder_is_walked_to_any_depth_and_sorted() -> None:
    _make("s/b.wav", "s/a/2.flac", "s/a/10.ogg", "s/a/deep/er/x.mp3", "s/a.wav", "t/no.wav")
    _make("s/B.WAV", "s/a.txt", "s/wav", "s/c.wav.part", "s/folder.wav/in.oga", "s/v.opus")
    want = [
        "s/B.WAV",
        "s/a.wav",
        "s/a/10.ogg",
        "s/a/2.flac",
        "s/a/deep/er/x.mp3",
        "s/b.wav",
        "s/folder.wav/in.oga",
        "s/v.opus",
    ]
    assert find_recordings(["s"]) == want
    assert find_recordings(["s/"]) == want
    assert find_recordings([str(Path("s").absolute())]) == [str(Path(p).absolute()) for p in want]


def test_files_in_the_current_folder_have_no_dot_in_front() -> None:
    _make("a.wav", "b/c.wav")
    assert find_recordings(["."]) == ["a.wav", "b/c.wav"]


def test_folder_deeper_than_the_stack() -> None:
    # Deeper than Python's recursion limit; paths stay below the system's 4096 bytes.
    deep = Path("d")
    for _ in range(1200):
        deep.mkdir()
        deep /= "d"
    deep = deep.parent
    _make(str(deep / "a.wav"))
    try:
        assert find_recordings(["d"]) == [str(deep / "a.wav")]
    finally:  # pytest's own cleanup would exceed the recursion limit
        (deep / "a.wav").unlink()
        os.removedirs(deep)


def test_hidden_files_are_skipped_unless_named() -> None:
    _make("s/a.wav", "s/.b.wav", "s/.git/c.wav", ".h/d.wav")
    assert find_recordings(["s"]) == ["s/a.wav"]
    assert find_recordings(["s/*", "s/**"]) == ["s/a.wav"]
    assert find_recordings(["s/.b.wav", ".h", "s/.git/*.wav"]) == [
        "s/.b.wav",
        ".h/d.wav",
        "s/.git/c.wav",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_belongs_to_a_format_we_read(suffix: str) -> None:
    formats = {".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".mp3": "MP3"}
    subtype = "OPUS" if suffix == ".opus" else None
    try:
        data = encode(noise(16_000), 16_000, formats.get(suffix, "OGG"), subtype)
    except (KeyError, ValueError):
        pytest.skip("this libsndfile does not write it")
    Path("s").mkdir()
    Path(f"s/a{suffix}").write_bytes(data)
    (name,) = find_recordings(["s"])
    assert len(load_windows(name, PengiConfig.preset("tiny"))) == 1


def test_found_files_come_once_and_named_files_as_often_as_named() -> None:
    _make("s/a.wav", "s/b/c.wav")
    both = ["s/a.wav", "s/b/c.wav"]
    assert (
        find_recordings(["s", "s/", "./s", "s/b", "s/**/*.wav", str(Path("s").resolve())]) == both
    )
    assert find_recordings(["s/b", "s"]) == ["s/b/c.wav", "s/a.wav"]
    assert find_recordings(["s/a.wav", "s/a.wav", "s"]) == ["s/a.wav", *both]
    assert find_recordings(["s", "s/a.wav"]) == [*both, "s/a.wav"]


def test_same_name_in_two_folders_is_two_recordings() -> None:
    _make("s/a.wav", "t/a.wav")
    assert find_recordings(["s", "t"]) == ["s/a.wav", "t/a.wav"]


def test_links_are_followed_once() -> None:
    _make("real/a.wav", "s/z/b.wav")
    Path("s/up").symlink_to("..")
    Path("s/self").symlink_to("self")
    Path("s/a_link").symlink_to("z")
    Path("s/z/back").symlink_to("../z")
    assert find_recordings(["s/z"]) == ["s/z/b.wav"]
    # Everything is reachable through s/up; each folder is listed only under its first name.
    assert find_recordings(["s"]) == ["s/up/real/a.wav", "s/z/b.wav"]
    assert find_recordings(["s/a_link"]) == ["s/a_link/b.wav"]
    assert find_recordings(["s/z", "s/a_link"]) == ["s/z/b.wav"]


def test_links_to_each_other_do_not_loop_forever() -> None:
    """Twelve folders, each with links to all of them: 12! paths through them."""
    for here in range(12):
        _make(f"s/{here:02}/a.wav")
        for there in range(12):
            Path(f"s/{here:02}/to{there:02}").symlink_to(f"../{there:02}")
    want = [f"s/{here:02}/a.wav" for here in range(12)]
    assert find_recordings(["s"]) == want
    assert find_recordings(["s/**/*.wav"]) == want


def test_a_file_also_reached_through_a_link_matches_a_pattern() -> None:
    _make("z/x.wav")
    Path("a").symlink_to("z")
    assert find_recordings(["z*/x.wav"]) == ["z/x.wav"]
    assert find_recordings(["a*/x.wav"]) == ["a/x.wav"]
    assert find_recordings(["*/x.wav"]) == ["z/x.wav"]


def test_a_broken_link_is_reported() -> None:
    Path("s").mkdir()
    Path("s/gone.wav").symlink_to("nowhere")
    Path("s/round.wav").symlink_to("round.wav")
    assert find_recordings(["s"]) == ["s/gone.wav", "s/round.wav"]
    for name in find_recordings(["s"]):
        with pytest.raises(AudioError, match=name):
            load_windows(name, PengiConfig.preset("tiny"))


def test_a_pipe_in_a_folder_is_skipped() -> None:
    _make("s/a.wav")
    os.mkfifo("s/b.wav")
    assert find_recordings(["s"]) == ["s/a.wav"]
    assert find_recordings(["s/b.wav"]) == ["s/b.wav"]


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("s/*.wav", ["s/a1.wav", "s/b1.wav"]),
        ("./s/*.wav", ["s/a1.wav", "s/b1.wav"]),
        ("s/?1.wav", ["s/a1.wav", "s/b1.wav"]),
        ("s/[!a]1.wav", ["s/b1.wav"]),
        ("s/**/*.wav", ["s/a1.wav", "s/b1.wav", "s/x/a2.wav", "s/x/y/a3.wav", "s/y/a4.wav"]),
        ("s/**/y/*.wav", ["s/x/y/a3.wav", "s/y/a4.wav"]),
        ("**/y/**/a?.wav", ["s/x/y/a3.wav", "s/y/a4.wav"]),
        ("*/*/*.wav", ["s/x/a2.wav", "s/y/a4.wav"]),
        ("s/x*", ["s/x/a2.wav", "s/x/y/a3.wav"]),
        ("s/x/**", ["s/x/a2.wav", "s/x/y/a3.wav"]),
        ("*1.wav", ["c1.wav"]),
    ],
)
def test_pattern(pattern: str, want: list[str]) -> None:
    _make("s/a1.wav", "s/b1.wav", "s/x/a2.wav", "s/x/y/a3.wav", "s/y/a4.wav", "c1.wav", "s/n.txt")
    assert find_recordings([pattern]) == want
    absolute = [str(Path(path).absolute()) for path in want]
    assert find_recordings([str(Path(pattern).absolute())]) == absolute


def test_pattern_that_matches_a_folder_and_its_files() -> None:
    _make("d/x/e.flac/y.wav", "d/x/e.flac/x/z.flac", "d/x/e.flac/x/deep/er/w.mp3", "d/y.wav")
    below = ["d/x/e.flac/x/deep/er/w.mp3", "d/x/e.flac/x/z.flac", "d/x/e.flac/y.wav"]
    assert find_recordings(["**/x/*.flac"]) == below
    assert find_recordings(["*/x/e*"]) == below


def test_a_folder_is_listed_for_each_rest_of_a_pattern() -> None:
    _make("b/y.wav", "a/z.wav")
    Path("a/c.flac").symlink_to("../b")
    assert find_recordings(["*/*.flac"]) == ["a/c.flac/y.wav"]


def test_random_patterns_match_as_in_the_standard_library() -> None:
    draw = random.Random(0)
    for _ in range(60):
        _make("/".join([*draw.choices("abc", k=draw.randrange(4)), f"{draw.choice('abc')}.wav"]))
    fitted = 0
    for _ in range(200):
        parts = draw.choices(["*", "a", "?", "[ab]", "**"], k=draw.randrange(4))
        pattern = "/".join([*parts, draw.choice(["*.wav", "[!a].wav", "?.w*"])])
        # after **, glob returns "//" or repeats
        globbed = glob.glob(pattern, recursive=True)  # noqa: PTH207 - pathlib reads ** differently
        want = sorted({os.path.normpath(path) for path in globbed})
        if want:
            assert find_recordings([pattern]) == want
            fitted += 1
    assert fitted > 100


def test_an_existing_name_is_not_a_pattern() -> None:
    _make("a[1].wav", "a1.wav", "mix [2]/b.wav", "mix 2/b.wav", "@list", "*")
    assert find_recordings(["a[1].wav"]) == ["a[1].wav"]
    assert find_recordings(["mix [2]/*.wav"]) == ["mix [2]/b.wav"]
    assert find_recordings(["@list", "*"]) == ["@list", "*"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_list(start: bytes, end: bytes) -> None:
    _make("s/a.wav", "s/b.wav", "lists/x")
    lines = [b"z.wav", b"", b"# why", b"  ", b"s", b" led.wav", "wörter.wav".encode(), b"-", b"@n"]
    Path("lists/l.txt").write_bytes(start + end.join(lines))
    want = ["z.wav", "s/a.wav", "s/b.wav", " led.wav", "wörter.wav", "-", "@n"]
    assert find_recordings(["@lists/l.txt"]) == want
    assert find_recordings(["first.wav", "@lists/l.txt"]) == ["first.wav", *want]


def test_list_of_names_that_are_not_utf8() -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    Path("l").write_bytes(b"caf\xe9.wav\na\xe2\x80\xa8b.wav\n")
    assert find_recordings(["@l"]) == [name, "a\u2028b.wav"]


def test_list_of_many_names_keeps_order_and_repeats() -> None:
    names = [f"{number % 5000}.wav" for number in range(20_000)]
    Path("l").write_text("\n".join(names), "utf-8")
    assert find_recordings(["@l"]) == names


class _Stdin:
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self.isatty = lambda: terminal


def test_list_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b"a.wav\nb.wav\n"))
    assert find_recordings(["@-"]) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("stdin", [None, _Stdin(b"", terminal=True)])
def test_a_list_is_not_read_from_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stdin: _Stdin | None
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert _one_line(["@-"], InputError).startswith("@-: reads a list from a pipe")


@pytest.mark.parametrize("names", [["-", "-"], ["-", "@-"], ["@-", "@-"], ["@l", "-"]])
def test_standard_input_twice(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b"a.wav"))
    Path("l").write_text("-\n", "utf-8")
    assert _one_line(names, UsageError).startswith("standard input can be read only once")


def test_folder_without_audio() -> None:
    _make("s/a.txt", "s/.b.wav")
    want = "s: no audio in this folder (looked for .wav, .wave, .flac, .ogg, .oga, .opus, .mp3, "
    assert _one_line(["s"]).startswith(want)


@pytest.mark.parametrize(
    "name", ["*.wav", "nowhere/*.wav", "s/*.txt", "s/**", "[z-a].wav", "[", "a?/b", "x" * 300 + "*"]
)
def test_pattern_that_matches_nothing(name: str) -> None:
    _make("s/a.txt")
    assert _one_line([name]).startswith(
        f"{name}: no such file, and no audio matches it as a pattern ("
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the list cannot be read: No such file or directory"),
        (b"", "the list is empty"),
        (b"\xef\xbb\xbf\r\n# a\n \n", "the list is empty"),
        (encode(noise(10), 16_000), "is not a list, which is UTF-8 text with one name per line"),
        ("a.wav\n".encode("utf-16"), "is not a list, which is UTF-8 text with one name per line"),
    ],
)
def test_list_refused(content: bytes | None, message: str) -> None:
    if content is not None:
        Path("l").write_bytes(content)
    assert _one_line(["@l"], InputError) == f"@l: {message}"


def test_list_refused_in_one_line() -> None:
    Path("s").mkdir()
    assert _one_line(["@s"], InputError) == "@s: the list cannot be read: Is a directory"
    assert _one_line(["@a\nb"], InputError).startswith(r"'@a\nb': the list cannot be read")
    assert _one_line(["@a\0b"], InputError).startswith(r"'@a\x00b': the list cannot be read")
    assert _one_line(["a\n*"]).startswith(r"'a\n*': no such file")


def test_a_name_with_a_nul_is_refused_by_the_reader() -> None:
    assert find_recordings(["a\0/b.wav"]) == ["a\0/b.wav"]


def test_an_unreadable_folder_is_reported_and_the_rest_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _make("s/a.wav", "s/closed/b.wav", "s/z/c.wav", "t/closed/d.wav")
    opened = os.scandir

    def scandir(path: Path) -> object:  # the tests may run as root, who can read everything
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    want = "s/closed: the folder cannot be read: Permission denied"
    for name in ("s", "s/**/*.wav", "s/**"):
        found = _find([name])
        assert found.paths == ["s/a.wav", "s/z/c.wav"]
        assert [(path, str(error)) for path, error in found.problems] == [("s/closed", want)]
    assert _find(["s/closed", "s/a.wav"]).paths == ["s/a.wav"]
    assert _one_line(["s/closed"], InputError) == want
    assert _one_line(["t"], InputError) == "t/closed: the folder cannot be read: Permission denied"


def test_a_name_that_yields_nothing_does_not_stop_the_others() -> None:
    _make("s/a.wav", "empty/notes.txt")
    Path("l").write_text("empty\ns\nno*.wav\n", "utf-8")
    found = _find(["@l"])
    assert found.paths == ["s/a.wav"]
    assert [path for path, _ in found.problems] == ["empty", "no*.wav"]
    assert all(isinstance(error, AudioError) for _, error in found.problems)
    assert _one_line(["empty", "no*.wav"]).startswith("empty: no audio in this folder")


def test_an_endless_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pengi_rt.audio.find.MAX_LIST", 1 << 20)
    assert "is longer than 1 MiB" in _one_line(["@/dev/zero"], InputError)
    monkeypatch.setattr(sys, "stdin", _Stdin(b"a.wav\n" * 10**6))
    assert "@-: is longer than 1 MiB" in _one_line(["@-"], InputError)


def test_other_kinds_of_audio_are_counted() -> None:
    _make("s/a.wav", *(f"s/{n}/b.WV" for n in range(3)), "s/c.ape", "s/notes.txt", "s/.d.wv")
    _make("t/e.tta", "u/f.txt", "w/g.wv", "w/h.wav")
    several = "4 files skipped that are audio of other kinds: 3 .wv, 1 .ape"
    assert _find(["s", "u/../w/*.wav"]).skipped == {"s": several}
    assert _find(["s/**"]).skipped == {"s/**": several}
    assert "; 1 file skipped that is audio of other kinds: 1 .tta)" in _one_line(["t"])


@pytest.mark.parametrize("installed", [False, True])
def test_formats_that_need_the_extra(*, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pengi_rt.audio.folder_walk.extra_suffixes_read", lambda: installed)
    _make("s/a.wav", "s/b.M4A", "s/c.webm")
    found = _find(["s"])
    if installed:
        assert found == (["s/a.wav", "s/b.M4A", "s/c.webm"], [], {})
    else:
        (said,) = found.skipped.values()
        assert said.startswith("2 files skipped that are audio of other kinds: 1 .m4a, 1 .webm")
        assert said.endswith("; for .m4a, .webm: pip install 'pengi-rt[formats]'")
