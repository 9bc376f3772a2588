"""The paper's prompts word for word, the grammar of templates, and users' files."""

from pathlib import Path

import pytest

from pengi_rt.errors import UsageError
from pengi_rt.text.prompts import RESERVED, Task, load_tasks

TABLE_1 = {
    "caption": ("generate audio caption", "{caption}"),
    "qa": ("question: {question}", "{answer}"),
    "events": ("this is a sound of", "{events}"),
    "scene": ("this acoustic scene is", "{scene}"),
    "emotion": ("this emotion is", "{emotion}"),
    "sentiment": ("this sentiment is", "{sentiment}"),
    "music": ("music analysis", None),
    "note": ("this music note is", None),
    "metadata": ("generate metadata", "{metadata}"),
}


def test_built_in_tasks_are_the_papers() -> None:
    tasks = load_tasks()
    assert list(tasks) == list(TABLE_1)
    for name, (prompt, target) in TABLE_1.items():
        assert tasks[name].name == name
        assert tasks[name].prompt == prompt
        assert target is None or tasks[name].target == target


def test_the_music_task_is_that_of_figure_4() -> None:
    fields: dict[str, object] = {
        "language": "english",
        "genre": "hip-hop",
        "keywords": ["glitch", "idm", "dustep"],
    }
    assert load_tasks()["music"].target_for(fields) == (
        "this is a sound of music in language english and genre hip-hop. "
        "The associated tags are glitch, idm, dustep"
    )
    assert load_tasks()["music"].target_for({"genre": "rock"}) == (
        "this is a sound of music in genre rock"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"velocity": 75}, ", velocity 75"),
        ({"source": "acoustic"}, ", source acoustic"),
        ({"qualities": ["dark", "fast decay"]}, ", and having qualities like dark, fast decay"),
        ({"qualities": [], "source": " ", "velocity": None}, ""),
        (
            {"velocity": 0, "source": "synthetic", "qualities": "bright"},
            ", velocity 0, source synthetic, and having qualities like bright",
        ),
    ],
)
def test_unknown_fields_of_a_note_are_left_out(more: dict[str, object], said: str) -> None:
    task = load_tasks()["note"]
    fields = {"instrument": "flute", "pitch": 60, **more}
    assert task.target_for(fields) == f"produced by flute, pitch 60{said}"
    assert task.fields == ("instrument", "pitch")
    assert task.optional_fields == ("velocity", "source", "qualities")


def test_a_question_is_in_the_prompt() -> None:
    task = load_tasks()["qa"]
    fields = {"question": "is it  loud?\n", "answer": "yes"}
    assert task.prompt_for(fields) == "question: is it loud?"
    assert task.target_for(fields) == "yes"
    assert task.fields == ("question", "answer")


def test_braces_in_a_value_are_kept() -> None:
    task = load_tasks()["caption"]
    assert task.target_for({"caption": "a {dog} [barks]"}) == "a {dog} [barks]"


def test_a_field_outside_brackets_is_required() -> None:
    task = Task("t", "about {a}", "b[ of {a}][ and {c}]")
    assert (task.fields, task.optional_fields) == (("a",), ("c",))
    assert task.target_for({"a": 1.5}) == "b of 1.5"


@pytest.mark.parametrize("value", ["", " \n\t", [], None])
def test_an_empty_field_is_missing(value: object) -> None:
    state = "missing" if value is None else "empty"
    with pytest.raises(
        UsageError, match=f"task 'caption' needs the field 'caption'; it is {state}"
    ):
        load_tasks()["caption"].target_for({"caption": value})


def test_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="task 'qa' needs the field 'question'; it is missing"):
        load_tasks()["qa"].prompt_for({"answer": "yes"})


@pytest.mark.parametrize("value", [True, {"a": 1}, float("nan"), float("inf"), [["a"]], [{}]])
def test_value_of_another_kind(value: object) -> None:
    with pytest.raises(UsageError, match=r"field 'caption' must be text, a number or a list"):
        load_tasks()["caption"].target_for({"caption": value})


def test_empty_item_of_a_list() -> None:
    with pytest.raises(UsageError, match="field 'events' has an empty item"):
        load_tasks()["events"].target_for({"events": ["dog", " "]})


def test_huge_numbers_are_text() -> None:
    assert load_tasks()["caption"].target_for({"caption": 10**400}) == "1" + "0" * 400


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("a {b", "stray '{'"),
        ("a b}", "stray '}'"),
        ("a {} b", "stray '{'"),
        ("a {B}", "stray '{'"),
        ("a [b {c}", r"stray '\['"),
        ("a] {c}", r"stray '\]'"),
        ("a [b [{c}] {d}]", r"stray '\['"),
        ("a [b]", "no field"),
        *((f"a {{{name}}}", f"field '{name}', a reserved key") for name in RESERVED),
    ],
)
@pytest.mark.parametrize("key", ["prompt", "target"])
def test_bad_template(key: str, template: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^{key} .*{why}"):
        Task("t", **({"prompt": "p", "target": "{x}"} | {key: template}))


def test_users_file_adds_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(
        "[birds]\nprompt = 'this bird is a'\ntarget = '{bird}'\n"
        "[caption]\nprompt = 'beschreibe'\ntarget = '{caption}'\n",
        "utf-8",
    )
    tasks = load_tasks(path)
    assert list(tasks) == [*TABLE_1, "birds"]
    assert tasks["birds"] == Task("birds", "this bird is a", "{bird}")
    assert tasks["caption"].prompt == "beschreibe"
    assert load_tasks()["caption"].prompt == "generate audio caption"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[birds", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"birds = 1", r"\[birds\] must be a table"),
        (b"[birds]\nprompt = 'a'", r"\[birds\]: target must be a string, got nothing"),
        (b"[birds]\nprompt = 1\ntarget = 'b'", r"\[birds\]: prompt must be a string, got 1"),
        (b"[b]\nprompt = 'a'\ntarget = 'b'\nanswer = ''", r"\[b\]: unknown key 'answer'"),
        (b"[birds]\nprompt = 'a'\ntarget = '{b'", r"\[birds\]: target has a stray '{'"),
    ],
)
def test_bad_file_is_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "tasks.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^{path}: .*{why}") as caught:
        load_tasks(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml: cannot be read: No such file"):
        load_tasks(tmp_path / "none.toml")
