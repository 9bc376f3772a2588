"""Labels for recordings: every window is scored by one of two methods."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, cast

import numpy as np

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.config.options import ClassifyOptions, Normalize
from pengi_rt.results.classification import Classification, ClassifiedWindow, LabelScore
from pengi_rt.session.batches import Batch, OutputsByRecording, RecordingOutputs
from pengi_rt.session.session import Session, full_prefixes
from pengi_rt.tasks.classify.by_likelihood import Scorer
from pengi_rt.tasks.classify.by_matching import Matcher
from pengi_rt.tasks.classify.labels import Labels, check_labels
from pengi_rt.tasks.generate import answer_batch
from pengi_rt.tasks.prepare import PreparedPrompt, PreparedRequest, one_prompt, prepare
from pengi_rt.text.prompts import task_prompt

TASK: Final = "events"
"""The task whose prompt is used when none is given."""


class WindowScores(NamedTuple):
    """Scores of one window."""

    scores: F64
    """``[labels]``."""
    chosen: Sequence[int]
    """Indices of the chosen labels."""
    text: str | None
    """The answer that was matched, if any."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Everything about a call except its recordings, already checked."""

    session: Session
    labels: tuple[str, ...]
    prompt: PreparedPrompt
    options: ClassifyOptions


def classify(
    session: Session,
    batches: Iterable[Batch],
    labels: Labels,
    prompt: str | None,
    options: ClassifyOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Classification]:
    """Classify each recording in turn.

    With ``partial_results``, each batch of windows gives a result, whose labels are those of all
    windows so far.

    Raises:
        UsageError: the labels or options are invalid, or do not fit together or fit the plan.
        PromptError: the prompt or a label is not valid text.
        BackendError: the session is closed.
    """
    session.plan.require(f"classify by {options.method}")
    texts = check_labels(labels, options.template)
    one = one_prompt(prompt, options, task_prompt(TASK), "classify")
    if options.method == "text-matching":
        request = prepare(session, [one], options)
        filled_in = cast("ClassifyOptions", request.options)
        task = _Task(session, tuple(texts), request.prompts[0], filled_in)
        matcher = Matcher(session, texts, strict=options.strict)
        score: Callable[[Batch], list[WindowScores]] = partial(_match, task, request, matcher)
    else:
        task = _Task(session, tuple(texts), PreparedPrompt(session, one, options), options)
        scorer = Scorer(session, texts, continues=bool(options.text))
        scorer.check_fits(session.generative.audio_prefix_length + len(task.prompt))
        score = _LikelihoodScores(task, scorer).score
    by_recording = OutputsByRecording[WindowScores](partial_results=partial_results)
    parts = (part for batch in batches for part in by_recording.add(batch, score(batch)))
    return _classifications(task, parts)


def _match(
    task: _Task, request: PreparedRequest, matcher: Matcher, batch: Batch
) -> list[WindowScores]:
    """Score every window by the text of its answer."""
    texts = [answers.windows[0].text for answers in answer_batch(task.session, request, batch)]
    if task.options.multi_label:
        scores, chosen = matcher.multi_label(texts)
    else:
        scores = matcher.scores(texts)
        chosen = [
            [int(row.argmax())] if text else [] for row, text in zip(scores, texts, strict=True)
        ]
    return list(map(WindowScores, scores, chosen, texts))


class _LikelihoodScores:
    """Scores windows by the labels' log-likelihoods."""

    def __init__(self, task: _Task, scorer: Scorer) -> None:
        self._task = task
        self._scorer = scorer
        self._normalize: Normalize = task.options.normalize or "sum"
        self._baseline: F64 | None = None

    def score(self, batch: Batch) -> list[WindowScores]:
        """Score every window of a batch."""
        prefixes = _prefixes(self._task, batch.windows)
        if self._task.options.multi_label:
            scores, chosen = self._scorer.multi_label(prefixes)
        else:
            baseline = self._silence()
            scores = self._scorer.scores(prefixes, self._normalize) - baseline
            chosen = scores.argmax(axis=1)[:, None].tolist()
        return [WindowScores(row, best, None) for row, best in zip(scores, chosen, strict=True)]

    def _silence(self) -> F64:
        """The scores to subtract: those for silence, or 0."""
        if self._baseline is None:
            self._baseline = np.zeros(1)
            if self._task.options.calibrate == "silence":
                silence = np.zeros((1, self._task.session.config.clip_samples), np.float32)
                prefixes = _prefixes(self._task, silence)
                self._baseline = self._scorer.scores(prefixes, self._normalize)
        return self._baseline


def _prefixes(task: _Task, windows: F32) -> Sequence[F32]:
    audio = task.session.encode_audio(windows).prefix
    return full_prefixes(audio, task.prompt.prefix())


def _classifications(
    task: _Task, parts: Iterable[RecordingOutputs[WindowScores]]
) -> Iterator[Classification]:
    totals: F64 = np.zeros(len(task.labels))
    chosen: set[int] = set()
    for part in parts:
        if part.first == 0:
            totals, chosen = np.zeros(len(task.labels)), set()
        for window in part.outputs:
            totals = totals + window.scores
            chosen.update(window.chosen)
        ranked = _ranked(task, totals / (part.first + len(part.outputs)))
        yield _classification(task, part, ranked, set(_names(task, chosen)))


def _classification(
    task: _Task,
    part: RecordingOutputs[WindowScores],
    ranked: tuple[LabelScore, ...],
    chosen: set[str],
) -> Classification:
    """The result for one part; ``ranked`` and ``chosen`` cover all windows so far."""
    windows = tuple(
        ClassifiedWindow(*span, _ranked(task, each.scores), _names(task, each.chosen), each.text)
        for span, each in zip(part.spans, part.outputs, strict=True)
    )
    best = [each.label for each in ranked if each.label in chosen]
    if chosen and not task.options.multi_label:
        best = [ranked[0].label]
    return Classification(
        audio=part.recording.name,
        prompt=task.prompt.prompt,
        method=task.options.method,
        windows=windows,
        labels=ranked,
        chosen=tuple(best),
        prompt_truncated=task.prompt.truncated,
        audio_truncated=part.recording.truncated,
        options=task.options,
        audio_warnings=part.recording.warnings,
        window_range=part.window_range,
    )


def _ranked(task: _Task, scores: F64) -> tuple[LabelScore, ...]:
    """All labels, best first; ties in the given order."""
    probabilities: list[float | None] = [None] * len(scores)
    if task.options.method == "log-likelihood":
        probabilities = _probabilities(scores, multi_label=task.options.multi_label).tolist()
    return tuple(
        LabelScore(task.labels[index], float(scores[index]), probabilities[index])
        for index in np.argsort(-scores, kind="stable").tolist()
    )


def _probabilities(scores: F64, *, multi_label: bool) -> F64:
    """Probabilities from log-likelihoods: each exponentiated (``multi_label``), or a softmax."""
    powers: F64 = np.exp(scores if multi_label else scores - scores.max())
    return powers if multi_label else powers / powers.sum()


def _names(task: _Task, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(task.labels[index] for index in indices)
