"""Work on static buffers that is replayed: a CUDA graph, or on the CPU the calls themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch


class Lane:
    """A stream in which graphs are captured, and in which work can be put beside other work.

    Libraries keep a workspace for every stream, and a graph goes on using that of the stream in
    which it was captured: graphs of one lane follow each other, those of two may overlap (of two
    that are made one after the other: PyTorch has 32 streams to give). On the CPU nothing overlaps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def forked(self) -> Iterator[None]:
        """Put what follows into this lane, behind what the current stream holds by now."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """Make the current stream wait for this lane; the host does not."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


class Replayed:
    """A function of no arguments that always does the same to the same tensors.

    On a CUDA device it is run once, which compiles its kernels, and captured when this object is
    made: what the buffers hold then must be fit to be read, and what is written to them must not
    matter. It must neither synchronise nor read a device's value on the host. What it allocates
    lives as long as this object.

    Attributes:
        first_run: seconds of that run, compilation included; 0 on the CPU.
        capture: seconds of the capture; 0 on the CPU.
    """

    def __init__(self, work: Callable[[], None], lane: Lane) -> None:
        """Make it ready; on the CPU there is nothing to do."""
        self.first_run = self.capture = 0.0
        self._run = work
        if lane.stream is not None:
            self._run = self._captured(work, lane.stream).replay

    def __call__(self) -> None:
        """Put the work into the current stream."""
        self._run()

    def _captured(self, work: Callable[[], None], own: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        # Libraries take their workspaces in the first run, which may not be captured, and like the
        # capture it needs a stream of its own (PyTorch's notes, "CUDA semantics: CUDA Graphs").
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
    """Of static buffers, so that work of about one size shares them."""
    return -(-size // multiple) * multiple
