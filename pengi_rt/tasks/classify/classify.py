"""Recordings to labels: what is asked is checked, and every window scored by either method."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, cast

import numpy as np

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.config.options import ClassifyOptions, Normalize
from pengi_rt.results.classification import Classification, ClassifiedWindow, LabelScore
from pengi_rt.session.batches import Batch, RecordingOutputs, split_by_recording
from pengi_rt.session.session import Session, full_prefixes
from pengi_rt.tasks.classify.by_likelihood import Scorer
from pengi_rt.tasks.classify.by_matching import Matcher
from pengi_rt.tasks.classify.labels import Labels, check_labels
from pengi_rt.tasks.generate import answer_batch
from pengi_rt.tasks.prepare import PreparedPrompt, PreparedRequest, one_prompt, prepare
from pengi_rt.text.prompts import task_prompt

TASK: Final = "events"
"""What is asked where nothing else is."""


class Scored(NamedTuple):
    """A window: every label's score ``[labels]``, the places of the chosen, its answer if any."""

    labels: F64
    chosen: Sequence[int]
    text: str | None


@dataclass(frozen=True, slots=True)
class _Task:
    """Everything about a call but its recordings, checked."""

    session: Session
    names: tuple[str, ...]
    question: PreparedPrompt
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
    """Classify every recording in turn. What can be refused without them is, by the call.

    ``partial_results``: a part comes with every batch; its labels are those of all windows so far.

    Raises:
        UsageError: the labels or options cannot be, or contradict each other or the plan.
        PromptError: the prompt or a label cannot be read.
        BackendError: the session is closed.
    """
    session.plan.require("classify")
    texts = check_labels(labels, options.template)
    asked = one_prompt(prompt, options, task_prompt(TASK), "classify")
    if options.method == "text-matching":
        answering = prepare(session, [asked], options)
        options = cast("ClassifyOptions", answering.options)
        task = _Task(session, tuple(texts), answering.prompts[0], options)
        matcher = Matcher(session, texts, strict=options.strict)
        matched = partial(_matched, task, answering, matcher)
        return _classifications(
            task, split_by_recording(batches, matched, partial_results=partial_results)
        )
    task = _Task(session, tuple(texts), PreparedPrompt(session, asked, options), options)
    scorer = Scorer(session, texts, continues=bool(options.text))
    scorer.check_fits(session.config.audio_mapper.prefix_length + len(task.question))
    scored = _Likelihood(task, scorer).scored
    return _classifications(
        task, split_by_recording(batches, scored, partial_results=partial_results)
    )


def _matched(
    task: _Task, answering: PreparedRequest, matcher: Matcher, batch: Batch
) -> list[Scored]:
    """Every window by its answer's text."""
    texts = [each.windows[0].text for each in answer_batch(task.session, answering, batch)]
    if task.options.multi_label:
        scores, chosen = matcher.lists(texts)
    else:
        scores = matcher.scores(texts)
        chosen = [[int(row.argmax())] if text else []
                  for row, text in zip(scores, texts, strict=True)]  # fmt: skip
    return list(map(Scored, scores, chosen, texts))


class _Likelihood:
    """Windows by the labels' log-likelihoods."""

    def __init__(self, task: _Task, scorer: Scorer) -> None:
        self._task = task
        self._scorer = scorer
        self._normalize: Normalize = task.options.normalize or "sum"
        self._silent: F64 | None = None

    def scored(self, batch: Batch) -> list[Scored]:
        """Every window."""
        prefixes = _prefixes(self._task, batch.windows)
        if self._task.options.multi_label:
            scores, chosen = self._scorer.lists(prefixes)
        else:
            silent = self._silence()
            scores = self._scorer.scores(prefixes, self._normalize) - silent
            chosen = scores.argmax(axis=1)[:, None].tolist()
        return [Scored(row, places, None) for row, places in zip(scores, chosen, strict=True)]

    def _silence(self) -> F64:
        """What is taken off: nothing, or the scores of silence."""
        if self._silent is None:
            self._silent = np.zeros(1)
            if self._task.options.calibrate == "silence":
                silence = np.zeros((1, self._task.session.config.clip_samples), np.float32)
                prefixes = _prefixes(self._task, silence)
                self._silent = self._scorer.scores(prefixes, self._normalize)
        return self._silent


def _prefixes(task: _Task, wave: F32) -> Sequence[F32]:
    audio = task.session.encode_audio(wave).prefix
    return full_prefixes(audio, task.question.prefix())


def _classifications(
    task: _Task, found: Iterable[RecordingOutputs[Scored]]
) -> Iterator[Classification]:
    totals: F64 = np.zeros(len(task.names))
    chosen: dict[int, None] = {}
    for part in found:
        if part.first == 0:
            totals, chosen = np.zeros(len(task.names)), {}
        for scored in part.outputs:
            totals = totals + scored.labels
            chosen.update(dict.fromkeys(scored.chosen))
        labels = _ranked(task, totals / (part.first + len(part.outputs)))
        yield _classification(task, part, labels, set(_named(task, chosen)))


def _classification(
    task: _Task, part: RecordingOutputs[Scored], labels: tuple[LabelScore, ...], found: set[str]
) -> Classification:
    windows = tuple(
        ClassifiedWindow(*span, _ranked(task, each.labels), _named(task, each.chosen), each.text)
        for span, each in zip(part.spans, part.outputs, strict=True)
    )
    whole = [each.label for each in labels if each.label in found]
    if found and not task.options.multi_label:
        whole = [labels[0].label]
    return Classification(
        audio=part.recording.name,
        prompt=task.question.prompt,
        method=task.options.method,
        windows=windows,
        labels=labels,
        chosen=tuple(whole),
        prompt_truncated=task.question.truncated,
        audio_truncated=part.recording.truncated,
        options=task.options,
        audio_warnings=part.recording.warnings,
        window_range=part.window_range,
    )


def _ranked(task: _Task, scores: F64) -> tuple[LabelScore, ...]:
    """Best first, equal ones as they were given."""
    shares: list[float | None] = [None] * len(scores)
    if task.options.method == "log-likelihood":
        shares = _probabilities(scores, several=task.options.multi_label).tolist()
    return tuple(
        LabelScore(task.names[place], float(scores[place]), shares[place])
        for place in np.argsort(-scores, kind="stable").tolist()
    )


def _probabilities(scores: F64, *, several: bool) -> F64:
    """Of log-likelihoods: each by itself, or their shares if one label is chosen of all."""
    powers: F64 = np.exp(scores if several else scores - scores.max())
    return powers if several else powers / powers.sum()


def _named(task: _Task, places: Iterable[int]) -> tuple[str, ...]:
    return tuple(task.names[place] for place in places)
