"""Replay work on static buffers: as a CUDA graph or, on the CPU, by calling it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch


class Lane:
    """A CUDA stream for capturing graphs, whose work can overlap work in other streams.

    Libraries keep one workspace per stream, and a graph keeps using the workspace of the stream in
    which it was captured. So graphs of one lane must run one after another; those of two lanes may
    overlap, if the lanes were created in a row (PyTorch has only 32 streams). On the CPU, nothing
    overlaps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def forked(self) -> Iterator[None]:
        """Run the block's work in this lane, after all work already in the current stream."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """Make the current stream wait for this lane, without making the host wait."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


class Replayed:
    """Work that always does the same operations on the same tensors, so it can be replayed.

    On a CUDA device the constructor runs it once, which compiles its kernels, and then captures it.
    The buffers must hold valid inputs by then, and their contents are overwritten. The work must
    neither synchronize nor read device values on the host. Its allocations live as long as this
    object.

    Attributes:
        first_run: seconds of the first run, compilation included; 0 on the CPU.
        capture: seconds of the capture; 0 on the CPU.
    """

    def __init__(self, work: Callable[[], None], lane: Lane) -> None:
        """Capture ``work`` in the lane's stream; on the CPU there is nothing to do."""
        self.first_run = self.capture = 0.0
        self._run = work
        if lane.stream is not None:
            self._run = self._captured(work, lane.stream).replay

    def __call__(self) -> None:
        """Put the work into the current stream."""
        self._run()

    def _captured(self, work: Callable[[], None], own: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        # Libraries allocate their workspaces in the first run, so it must not be captured. Like the
        # capture it needs its own stream (PyTorch's notes, "CUDA semantics: CUDA Graphs").
        torch.cuda.synchronize(own.device)
        started = perf_counter()
        with torch.cuda.stream(own):
            work()
        torch.cuda.synchronize(own.device)
        ran = perf_counter()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=own):
            work()
        self.first_run, self.capture = ran - started, perf_counter() - ran
        return graph


def rounded_up(size: int, multiple: int) -> int:
    """Round up to a multiple, so that work of similar size shares static buffers."""
    return -(-size // multiple) * multiple
