"""Work on static buffers that is replayed: a CUDA graph, or on the CPU the calls themselves."""

from collections.abc import Callable
from time import perf_counter

import torch


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

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        """Make it ready; on the CPU there is nothing to do."""
        self.first_run = self.capture = 0.0
        self._run = work
        if device.type == "cuda":
            self._run = self._captured(work, device).replay

    def __call__(self) -> None:
        """Put the work into the current stream."""
        self._run()

    def _captured(self, work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
        # Libraries take their workspaces in the first run, which may not be captured, and like the
        # capture it needs a stream of its own (PyTorch's notes, "CUDA semantics: CUDA Graphs").
        torch.cuda.synchronize(device)
        started = perf_counter()
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            work()
        torch.cuda.synchronize(device)
        ran = perf_counter()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        self.first_run, self.capture = ran - started, perf_counter() - ran
        return graph
