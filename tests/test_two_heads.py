"""One plan holds a decoder and a contrastive head over the same encoders, or the head alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_two_heads
from command_line import Capture, run
from toy_plan import one_line
from toy_two_heads import TwoHeadsBackend

import pengi_rt
from pengi_rt.config.backend import register_backend, unregister_backend
from pengi_rt.config.family import TASKS, register_family, unregister_family
from pengi_rt.engine import Engine
from pengi_rt.errors import PlanError, UsageError
from pengi_rt.plan.reader import Plan
from pengi_rt.tasks.embed import unit

LABELS = ["a dog barks", "rain", "a siren"]
HEAD = ("embed", "embed texts")
"""What the contrastive head does alone."""

Sound = tuple["np.ndarray[tuple[int], np.dtype[np.float32]]", int]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_family(toy_two_heads.FAMILY)
    register_backend(toy_two_heads.BACKEND)
    yield
    unregister_backend(toy_two_heads.BACKEND.name)
    unregister_family(toy_two_heads.FAMILY.name)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Engine]:
    path = toy_two_heads.write_plan(tmp_path / "both.plan")
    with pengi_rt.load(path, backend="two-headed") as engine:
        yield engine


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Engine]:
    path = toy_two_heads.write_plan(tmp_path / "head.plan", decoder=False)
    with pengi_rt.load(path, backend="two-headed") as engine:
        yield engine


def sound_of(engine: Engine, text: str) -> Sound:
    """A recording of one window, whose embedding is that of the text."""
    (embedded,) = engine.embed_text([text])
    samples = np.zeros(engine.config.clip_samples, np.float32)
    samples[: len(embedded.embedding)] = 0.5 * embedded.embedding
    return samples, engine.config.sample_rate


def nearest_label(engine: Engine, sound: Sound) -> str:
    """The label whose embedding is nearest to the sound's own."""
    (heard,) = engine.embed_audio([sound])
    texts = np.stack([each.embedding for each in engine.embed_text(LABELS)])
    return LABELS[int((unit(heard.embedding) @ unit(texts).T).argmax())]


def test_one_plan_serves_both(both: Engine) -> None:
    assert both.plan.tasks == tuple(TASKS)
    for label in LABELS:
        sound = sound_of(both, label)
        assert nearest_label(both, sound) == label
        result = both.generate(sound)
        assert len(result.windows[0].beams) == 2
        matched = both.classify(sound, LABELS, method="text-matching")
        assert {each.label for each in matched.labels} == set(LABELS)
        scored = both.classify(sound, LABELS, method="log-likelihood")
        assert scored.labels[0].probability is not None
    answers = {both.generate(sound_of(both, label)).text for label in LABELS}
    assert len(answers) == len(LABELS), "the decoder reads the sound"


def test_matching_compares_what_the_decoder_generates(both: Engine) -> None:
    """The answer itself as a label has the cosine 1."""
    sound = sound_of(both, "rain")
    prompt = "generate audio caption"
    answer = both.generate(sound, prompt).text
    matched = both.classify(sound, [*LABELS, answer], prompt, method="text-matching")
    assert matched.labels[0].label == answer
    assert matched.labels[0].score == 1


def test_one_pass_gives_the_embedding_and_the_prefix(both: Engine) -> None:
    assert isinstance(both.backend, TwoHeadsBackend)
    (heard,) = both.embed_audio([sound_of(both, "rain")])
    assert both.backend.encoded == 1
    assert heard.embedding.shape == (1, 4)
    assert heard.prefix.shape == (1, 1, 4)


def test_the_head_alone(head: Engine) -> None:
    assert head.plan.tasks == HEAD
    assert head.backend.decoder is None
    for label in LABELS:
        assert nearest_label(head, sound_of(head, label)) == label
    (heard,) = head.embed_audio([sound_of(head, "rain")])
    assert heard.prefix.shape == (1, 0, 0)


CALLS: dict[str, Callable[[Engine], object]] = {
    "generate": lambda engine: engine.generate("a.wav"),
    "stream": lambda engine: list(engine.stream("a.wav")),
    "describe": lambda engine: engine.describe("a.wav"),
    "classify by text-matching": lambda engine: engine.classify(
        "a.wav", LABELS, method="text-matching"
    ),
    "classify by log-likelihood": lambda engine: engine.classify(
        "a.wav", LABELS, method="log-likelihood"
    ),
    "explain": lambda engine: list(engine.explain(["a.wav"])),
    "index": lambda engine: engine.index(".", "index"),
    "search": lambda engine: engine.search("index", "rain"),
}


@pytest.mark.parametrize("task", CALLS)
def test_without_a_decoder_it_says_what_it_can_do(task: str, head: Engine) -> None:
    with pytest.raises(UsageError) as caught:
        CALLS[task](head)
    assert one_line(str(caught.value))
    assert str(caught.value) == (
        f"{head.plan.path} holds no decoder, so it cannot {task}: it can {', '.join(HEAD)}; "
        "export a checkpoint that has one"
    )


def test_inspect(both: Engine, head: Engine, capsys: Capture) -> None:
    for engine, tasks in ((both, tuple(TASKS)), (head, HEAD)):
        _, out, _ = run(capsys, "inspect", engine.plan.path)
        assert f"{'tasks':<10} {', '.join(tasks)}" in out.splitlines()


def test_the_head_alone_needs_no_tables_and_no_tokenizer_of_the_decoder(tmp_path: Path) -> None:
    with Plan.open(toy_two_heads.write_plan(tmp_path / "head.plan", decoder=False)) as plan:
        assert set(plan.tensors) == {"words"}
        assert "tokenizers/decoder.json" not in plan.manifest.entries
    with pytest.raises(PlanError, match="no entry"), Plan.open(plan.path) as opened:
        opened.tokenizer("decoder")
