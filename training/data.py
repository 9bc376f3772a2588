"""Training data: examples drawn by their position in the run, so that a run can be resumed.

Nothing here has state. Position ``p`` of the run is always the same example with the same crop and
the same rows: each epoch is a permutation seeded by its number, and each example has its own random
generator. A run that resumes at step ``s`` starts at position ``s * batch_size``.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pengi_rt.audio.recording import AudioLike, load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import PengiError, UsageError
from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import Regular, open_regular
from pengi_rt.training.config import DataConfig
from pengi_rt.training.examples import Clips, RowEncoder, TextRows, tag_targets
from pengi_rt.training.log_mel_cache import LogMelCache
from pengi_rt.training.manifest import Row

ORDER, DRAW = 0, 1
"""Purposes of a random generator: the order of an epoch, the draws of one example."""


class ExampleOrder:
    """An endless order of ``size`` examples: one permutation per epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def index(self, position: int) -> int:
        """The example at ``position`` of the run."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(self.size)
            self._epoch = epoch
        return int(self._order[place])

    def generator(self, position: int) -> np.random.Generator:
        """The random generator of the example at ``position``, for its crop, rows and gain."""
        return np.random.default_rng([self.seed, DRAW, position])


class ClipData(Dataset[Clips]):
    """Batches of clips and the rows about them, indexed by lists of positions."""

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: RowEncoder,
        config: DataConfig,
        *,
        seed: int,
        cache: LogMelCache | None = None,
        tags: Sequence[str] = (),
        gain_db: float = 0.0,
    ) -> None:
        self.encoder = encoder
        self.config = config
        self.cache = cache
        self.tags: Mapping[str, int] = {name: index for index, name in enumerate(tags)}
        self.gain_db = gain_db
        self.units = _units(rows, by_clip=config.rows_per_clip > 1)
        self.order = ExampleOrder(len(self.units), seed)
        self._weights = config.task_weights
        self._heard = _exchanged(rows) if config.shuffle_pairs else {}

    def __getitem__(self, positions: list[int]) -> Clips:
        """The batch at these positions of the run. Raises AudioError for a broken recording."""
        rows: list[Row] = []
        clips: list[int] = []
        audio: list[Tensor] = []
        tags: list[Tensor] = []
        for clip, position in enumerate(positions):
            index, rng = self.order.index(position), self.order.generator(position)
            drawn = self._draw(self.units[index], rng)
            rows += drawn
            clips += [clip] * len(drawn)
            samples, start = self._read(self._heard.get(drawn[0].audio, drawn[0]), rng)
            audio.append(samples)
            tags.append(self._tags(drawn[0], start))
        batch = torch.stack(audio)
        return Clips(
            rows=self.encoder.rows(rows, clips=clips),
            wave=None if self.cache else batch,
            log_mel=batch if self.cache else None,
            tags=torch.stack(tags) if self.tags else None,
        )

    def _draw(self, unit: Sequence[Row], rng: np.random.Generator) -> list[Row]:
        count = self.config.rows_per_clip
        if len(unit) == 1 and count == 1:
            return list(unit)
        weights = np.array([self._weights.get(row.task, 1.0) for row in unit])
        drawn = rng.choice(len(unit), count, replace=len(unit) < count, p=weights / weights.sum())
        return [unit[index] for index in drawn]

    def _read(self, row: Row, rng: np.random.Generator) -> tuple[Tensor, float]:
        """A row's clip (samples, or log-mel in dB), and its start in the recording in seconds."""
        assert row.audio is not None
        gain = rng.uniform(-self.gain_db, self.gain_db)  # dB
        if self.cache:
            return torch.from_numpy(self.cache.read(row.audio) + np.float32(gain)), 0.0
        crop = random.Random(int(rng.integers(2**32)))  # noqa: S311 - a crop, reproducible
        recording = load_windows(
            self._source(row.audio),
            self.encoder.config,
            long_audio="random",
            rng=crop,
            name=str(row.audio),
        )
        samples = recording.samples[0] * np.float32(10 ** (gain / 20))
        return torch.from_numpy(samples), recording.starts[0]

    def _source(self, audio: Path) -> AudioLike:
        """The source of a row's recording."""
        return Regular(audio)

    def _tags(self, row: Row, start: float) -> Tensor:
        config = self.encoder.config
        return tag_targets(
            row.tags, self.tags, steps=config.audio_steps, seconds=config.clip_seconds, start=start
        )


class TextData(Dataset[tuple[TextRows, ...]]):
    """Batches of text rows, in one group of equal size for each way to read a prompt."""

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: RowEncoder,
        config: DataConfig,
        *,
        seed: int,
        prompts: Sequence[str] = (),
    ) -> None:
        """``prompts`` is ``encoder`` or ``tokens`` for each group; empty: targets only."""
        self.encoder = encoder
        self.prompts = prompts
        self.rows = rows
        self.order = ExampleOrder(len(rows), seed)
        weights = np.array([config.task_weights.get(row.task, 1.0) for row in rows])
        self._cumulative = np.cumsum(weights) / weights.sum() if config.task_weights else None

    def __getitem__(self, positions: list[int]) -> tuple[TextRows, ...]:
        """The batch at these positions of the run."""
        rows = [self.rows[self._index(position)] for position in positions]
        if not self.prompts:
            bare = [_bare(row) for row in rows]
            return tuple(
                self.encoder.rows(g, prompts_as_tokens=True) for g in self._by_length(bare)
            )
        ends = [len(rows) * group // len(self.prompts) for group in range(len(self.prompts) + 1)]
        return tuple(
            self.encoder.rows(group, prompts_as_tokens=kind == "tokens", transcripts=True)
            for kind, start, end in zip(self.prompts, ends, ends[1:], strict=False)
            for group in self._by_length(rows[start:end])
        )

    def _by_length(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Split the rows into two groups, so that the longest quarter does not pad the others."""
        ordered = sorted(rows, key=lambda row: len(self.encoder.target_ids(row.target)))
        short = len(ordered) * 3 // 4
        yield from filter(None, (ordered[:short], ordered[short:]))

    def _index(self, position: int) -> int:
        if self._cumulative is None:
            return self.order.index(position)
        return int(np.searchsorted(self._cumulative, self.order.generator(position).random()))


class Positions(Sampler[list[int]]):
    """The positions that one process reads in each part of each step, from ``start`` on."""

    def __init__(self, *, start: int, stop: int, size: int, rank: int = 0, world: int = 1) -> None:
        """``start`` and ``stop`` count parts of steps; ``size`` is a part's size per process."""
        self.parts = range(start, stop)
        self.size, self.rank, self.world = size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.parts:
            first = (part * self.world + self.rank) * self.size
            yield list(range(first, first + self.size))

    def __len__(self) -> int:
        return len(self.parts)


class _Told(Dataset[object]):
    """Returns errors as items: raised in a worker, they would contain a traceback."""

    def __init__(self, data: Dataset[object]) -> None:
        self.data = data

    def __getitem__(self, positions: list[int]) -> object:
        try:
            return self.data[positions]
        except PengiError as error:
            return error


def make_loader(data: Dataset[object], positions: Positions, workers: int) -> Iterator[object]:
    """Yield batches in order. The global random generators are never used, with any workers.

    Raises:
        PengiError: the error of the data, in place of its batch.
    """
    loader: DataLoader[object] = DataLoader(
        _Told(data),
        sampler=positions,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=_as_it_is,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_group,
    )
    for batch in loader:
        if isinstance(batch, PengiError):
            raise batch
        yield batch


def _leave_group(_worker: int) -> None:
    """Leave the process group: Ctrl-C should stop the main process, not its workers."""
    os.setpgid(0, 0)


def _as_it_is(batch: object) -> object:
    return batch


def text_documents(paths: Sequence[Path]) -> list[Row]:
    """Read plain text, one document per line, as rows that have only a target.

    Raises:
        UsageError: a file cannot be read, or all of them are empty.
    """
    rows: list[Row] = []
    for path in paths:
        try:
            with open_regular(path) as file:
                lines = file.read().decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or one_line(str(error))
            raise UsageError(
                f"{one_line(str(path))}: cannot be read as UTF-8 text: {why}"
            ) from None
        rows += [
            Row(line=number, audio=None, task="", prompt="", target=line, tags=(), transcript="")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    if not rows:
        raise UsageError(f"{one_line(', '.join(map(str, paths)))}: holds no text")
    return rows


def check_geometry(
    config: PengiConfig, rows: Sequence[Row], encoder: RowEncoder, *, prompts_as_tokens: bool
) -> None:
    """Refuse rows that do not fit into the decoder's positions.

    Raises:
        UsageError: the prefix (or transcript and prompt) and the longest target together exceed
            ``decoder.n_positions``.
    """
    longest = max(len(encoder.target_ids(row.target)) for row in rows)
    prefix = config.prefix_length
    if prompts_as_tokens:
        asked = max(len(encoder.plain_ids(prompt)) for prompt in {row.prompt for row in rows})
        prefix = max(prefix, config.audio_mapper.prefix_length + asked)
    needed = prefix + longest
    if needed > config.decoder.n_positions:
        raise UsageError(
            f"prefix ({prefix}) and targets ({longest} tokens) need {needed} "
            f"positions, the decoder has {config.decoder.n_positions}: lower "
            "data.max_target_tokens, or raise model.decoder.n_positions"
        )


def _units(rows: Sequence[Row], *, by_clip: bool) -> list[list[Row]]:
    """The units to draw from: each row, or all rows of a recording."""
    if not by_clip:
        return [[row] for row in rows]
    clips: dict[Path | None, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.audio, []).append(row)
    return list(clips.values())


def _exchanged(rows: Sequence[Row]) -> dict[Path | None, Row]:
    """Map each recording to a row from the other half of the set, so none keeps its own."""
    clips = {row.audio: row for row in rows}
    if len(clips) < 2:
        raise UsageError("data.shuffle_pairs needs at least two recordings")
    others, half = list(clips.values()), len(clips) // 2
    return dict(zip(clips, others[half:] + others[:half], strict=True))


def _bare(row: Row) -> Row:
    """The row's target without its prompt."""
    return Row(
        line=row.line,
        audio=None,
        task=row.task,
        prompt="",
        target=row.target,
        tags=(),
        transcript="",
    )
