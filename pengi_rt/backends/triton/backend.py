"""The GPU backend: our Triton kernels on a CUDA device, replayed from CUDA graphs.

Everything from waveform to tokens runs on the device; every few steps the host checks whether all
clips are done. With Triton's interpreter, the same code runs on the CPU, for tests.
"""

import copy
from typing import Final, Self

import torch
from torch import nn

from pengi_rt.backends.failures import explained
from pengi_rt.backends.torch import model_of
from pengi_rt.backends.triton.audio import front_end_tables
from pengi_rt.backends.triton.cuda_graph import Lane, Replayed
from pengi_rt.backends.triton.decoder import TritonDecoder
from pengi_rt.backends.triton.encoders import TritonEncoders
from pengi_rt.backends.triton.search import TritonSearch
from pengi_rt.backends.triton.weights import decoder_weights
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.errors import BackendError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.reader import Plan

DTYPES: Final = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float16,
}
"""Dtypes of activations, by precision."""

_explained = explained("the triton backend")


class TritonBackend:
    """Runs a model on one device."""

    name = "triton"

    def __init__(
        self, model: Pengi, *, device: torch.device | str = "cuda", precision: str = "fp16"
    ) -> None:
        """Wrap ``model``, which must not change; ``precision`` is one of :data:`DTYPES`.

        With int8, the decoder's matrices are int8 and everything else is float16.
        """
        self.config = model.config
        self.precision = precision
        lane, dtype = Lane(torch.device(device)), DTYPES[precision]
        weights = decoder_weights(model.decoder, lane.device, dtype, int8=precision == "int8")
        tables = front_end_tables(model.audio_encoder.mel, lane.device)
        encoder = _without_decoder(model).to(lane.device, dtype).eval()
        self.encoders = TritonEncoders(encoder, tables, lane)
        self.decoder = TritonDecoder(model.config.decoder, weights)
        self.device_search = TritonSearch(self.encoders, weights, lane)

    @classmethod
    @_explained
    def from_plan(
        cls, plan: Plan, *, device: torch.device | str = "cuda", precision: str = "fp16"
    ) -> Self:
        """The model of an open plan.

        Raises:
            BackendError: the plan is of a family that the kernels do not compute.
            PlanError: the plan lacks a tensor of its own model, or a tensor has the wrong shape.
        """
        model = model_of(plan)
        if not isinstance(model, Pengi):
            raise BackendError(
                f"the triton backend has no kernels for the {plan.config.family} family of "
                f"{plan.path}"
            )
        return cls(model, device=device, precision=precision)

    @_explained
    @torch.inference_mode()
    def warm_up(self, prefix: int, clips: int, options: DecodeOptions) -> dict[str, Replayed]:
        """Compile and capture the work of requests with these numbers of clips and prefix rows.

        Prompts of the usual lengths are included; a longer one is captured on first use.
        """
        return self.encoders.warm_up(clips) | self.device_search.warm_up(prefix, clips, options)

    def close(self) -> None:
        self.encoders.close()
        self.device_search.close()
        self.__dict__.pop("decoder", None)


def _without_decoder(model: Pengi) -> Pengi:
    """A copy that keeps only the embeddings of the decoder, which some text encoders read."""
    blocks, model.decoder.h = model.decoder.h, nn.ModuleList()
    try:
        return copy.deepcopy(model)
    finally:
        model.decoder.h = blocks
