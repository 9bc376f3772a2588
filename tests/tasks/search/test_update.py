"""What an update captions again, and what it does not."""

from pathlib import Path

import pytest
from sounds import IDENTITY, Collection, check, contents, index, some

from pengi_rt.errors import UsageError
from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.rows import IndexedFile
from pengi_rt.tasks.search.update import FileStat, Reuse, plan_update

KNOWN = {
    "a.wav": IndexedFile("a.wav", 10, 1, "aa" * 32),
    "b.wav": IndexedFile("b.wav", 20, 2, "bb" * 32),
    "c.wav": IndexedFile("c.wav", 20, 3, "bb" * 32),
}


def never(name: str) -> str:
    raise AssertionError(f"{name} was hashed")


def test_same_size_and_time_is_not_read() -> None:
    update = plan_update([FileStat(*known[:3]) for known in KNOWN.values()], KNOWN, never)
    assert update.kept == tuple(Reuse(known, name) for name, known in KNOWN.items())
    assert [*update.todo, *update.moved, *update.deleted] == []


def test_touched_file_is_kept_with_its_new_time() -> None:
    update = plan_update([FileStat("a.wav", 10, 9)], KNOWN, lambda _: "aa" * 32)
    assert update.kept == (Reuse(IndexedFile("a.wav", 10, 9, "aa" * 32), "a.wav"),)
    assert update.deleted == ("b.wav", "c.wav")


def test_changed_content_of_the_same_size() -> None:
    update = plan_update([FileStat("a.wav", 10, 9)], KNOWN, lambda _: "ff" * 32)
    assert update.changed == update.todo == (FileStat("a.wav", 10, 9),)


def test_a_file_of_another_size_is_not_hashed() -> None:
    update = plan_update([FileStat("a.wav", 11, 1), FileStat("z.wav", 12, 1)], KNOWN, never)
    assert update.changed == (FileStat("a.wav", 11, 1),)
    assert update.new == (FileStat("z.wav", 12, 1),)
    assert update.todo == (FileStat("a.wav", 11, 1), FileStat("z.wav", 12, 1))


def test_moved_and_copied_content() -> None:
    found = [FileStat("z.wav", 10, 7), FileStat("y.wav", 20, 8), FileStat("b.wav", 20, 2)]
    digests = {"z.wav": "aa" * 32, "y.wav": "bb" * 32}
    update = plan_update(found, KNOWN, digests.__getitem__)
    assert update.moved == (
        Reuse(IndexedFile("y.wav", 20, 8, "bb" * 32), "b.wav"),
        Reuse(IndexedFile("z.wav", 10, 7, "aa" * 32), "a.wav"),
    )
    assert [reuse.source for reuse in update.kept] == ["b.wav"]
    assert update.deleted == ("c.wav",)


def test_the_same_name_comes_before_others_of_equal_content() -> None:
    update = plan_update([FileStat("c.wav", 20, 9)], KNOWN, lambda _: "bb" * 32)
    assert update.kept == (Reuse(IndexedFile("c.wav", 20, 9, "bb" * 32), "c.wav"),)


def test_an_unreadable_file_counts_as_changed_or_new() -> None:
    update = plan_update(
        [FileStat("a.wav", 10, 9), FileStat("z.wav", 10, 9)], KNOWN, lambda _: None
    )
    assert (update.changed, update.new) == (
        (FileStat("a.wav", 10, 9),),
        (FileStat("z.wav", 10, 9),),
    )


def test_a_name_that_occurs_twice() -> None:
    with pytest.raises(UsageError, match=r"a\.wav: occurs twice in the collection"):
        plan_update(
            [FileStat("a.wav", 1, 1), FileStat("b.wav", 1, 1), FileStat("a.wav", 2, 1)], {}, never
        )


@pytest.fixture
def sounds() -> Collection:
    return some(9)


def test_nothing_to_do_writes_nothing(tmp_path: Path, sounds: Collection) -> None:
    _, captioned = index(tmp_path / "i", sounds)
    assert len(captioned) == 9
    before = contents(tmp_path / "i")
    sounds.hashed.clear()
    assert index(tmp_path / "i", sounds)[1] == []
    assert contents(tmp_path / "i") == before
    assert sounds.hashed == []
    check(tmp_path / "i", sounds)


def test_only_what_changed_is_captioned(tmp_path: Path, sounds: Collection) -> None:
    index(tmp_path / "i", sounds)
    sounds.write("a/0.wav", b"another")
    sounds.write("0 new.wav", b"new")
    sounds.write("moved/here.wav", sounds.files.pop("b/4.wav")[0])
    sounds.write("c/5.wav", sounds.files["c/5.wav"][0])  # touched
    del sounds.files["b/1.wav"]
    update, captioned = index(tmp_path / "i", sounds)
    assert captioned == ["0 new.wav", "a/0.wav"]
    assert update.deleted == ("b/1.wav",)
    assert [(r.recording.file, r.source) for r in update.moved] == [("moved/here.wav", "b/4.wav")]
    check(tmp_path / "i", sounds)
    sounds.hashed.clear()
    assert index(tmp_path / "i", sounds)[1] == []
    assert sounds.hashed == []
    index(tmp_path / "fresh", sounds)
    fresh, grown = contents(tmp_path / "fresh"), contents(tmp_path / "i")
    assert [grown[f"g000002/{Path(name).name}"] for name in fresh if name.startswith("g")] == [
        data for name, data in fresh.items() if name.startswith("g")
    ]


def test_two_files_that_swap_names(tmp_path: Path, sounds: Collection) -> None:
    """A moved recording keeps its rows, even if its old name is recaptioned before the commit."""
    index(tmp_path / "i", sounds)
    sounds.write("a/3.wav", sounds.files["a/6.wav"][0])
    sounds.write("a/6.wav", b"wholly new")
    sounds.write("z.wav", sounds.files["a/3.wav"][0])
    assert index(tmp_path / "i", sounds)[1] == ["a/6.wav"]
    check(tmp_path / "i", sounds)


def test_everything_is_gone(tmp_path: Path, sounds: Collection) -> None:
    index(tmp_path / "i", sounds)
    sounds.files.clear()
    assert len(index(tmp_path / "i", sounds)[0].deleted) == 9
    check(tmp_path / "i", sounds)
    assert Index.open(tmp_path / "i").captions.shape == (0, 8)
    sounds.write("back.wav", b"back")
    index(tmp_path / "i", sounds)
    check(tmp_path / "i", sounds)


def test_recording_that_fails_is_not_in_the_index(tmp_path: Path, sounds: Collection) -> None:
    index(tmp_path / "i", sounds)
    sounds.write("a/0.wav", b"unreadable")
    with Builder(tmp_path / "i", IDENTITY, collection="/sounds") as builder:
        builder.commit(builder.plan(sounds.found(), sounds.digest))
    bad = sounds.files.pop("a/0.wav")
    check(tmp_path / "i", sounds)
    sounds.files["a/0.wav"] = bad
    assert index(tmp_path / "i", sounds)[1] == ["a/0.wav"]
