"""Examples from shards, in an order that depends only on the seed and the position."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pengi_rt.audio.recording import AudioLike
from pengi_rt.errors import UsageError
from pengi_rt.training.config import DataConfig
from pengi_rt.training.data import ORDER, ClipData, ExampleOrder
from pengi_rt.training.examples import RowEncoder
from pengi_rt.training.manifest import Row
from pengi_rt.training.shards import Shards

TOGETHER = 8
"""Shards that are shuffled together, so that a batch mixes shards but only a few are read."""


class ShardOrder(ExampleOrder):
    """Goes through the shards in a random order, mixing the examples of eight at a time.

    As in :class:`ExampleOrder`, the order depends on the seed and the epoch, not on where a run was
    resumed or how many processes share it.
    """

    def __init__(self, shards: Sequence[Path], seed: int) -> None:
        """``shards`` holds, for each example, the shard that it is in."""
        super().__init__(len(shards), seed)
        places: dict[Path, list[int]] = {}
        for example, shard in enumerate(shards):
            places.setdefault(shard, []).append(example)
        self._shards = [np.array(examples, np.int64) for examples in places.values()]

    def index(self, position: int) -> int:
        """The example at ``position`` of the run."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._order, self._epoch = self._drawn(epoch), epoch
        return int(self._order[place])

    def _drawn(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        order = rng.permutation(len(self._shards))
        groups = [order[first : first + TOGETHER] for first in range(0, len(order), TOGETHER)]
        mixed = [
            rng.permutation(np.concatenate([self._shards[shard] for shard in group]))
            for group in groups
        ]
        return np.concatenate(mixed)


class ShardData(ClipData):
    """Like :class:`ClipData`, but reads from shards."""

    def __init__(
        self,
        shards: Shards,
        rows: Sequence[Row],
        encoder: RowEncoder,
        config: DataConfig,
        *,
        seed: int,
        tags: Sequence[str] = (),
        gain_db: float = 0.0,
    ) -> None:
        """``rows`` are the rows of ``shards.rows`` that the run reads.

        Raises:
            UsageError: the config turns on the log-mel cache.
        """
        if config.cache_log_mel:
            raise UsageError("data.cache_log_mel is for manifests, not for data.shards; remove it")
        super().__init__(rows, encoder, config, seed=seed, tags=tags, gain_db=gain_db)
        self.shards = shards
        self.order = ShardOrder([_shard(unit[0]) for unit in self.units], seed)

    def _source(self, audio: Path) -> AudioLike:
        return self.shards.read(audio)


def _shard(row: Row) -> Path:
    assert row.audio is not None
    return row.audio.parent
