"""What pengi-rt is measured against: the ways people run Pengi in PyTorch today.

All take the same waveform and prompt and produce the same number of new tokens; none stops early.
"""

import copy

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pengi_rt.models.pengi import Pengi


class PyTorch:
    """The reference model, eager, with the released code's decoder: a Hugging Face module."""

    def __init__(
        self,
        model: Pengi,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Copies the weights, unless ``model`` already has this device and dtype."""
        self.device, self.dtype = torch.device(device), dtype
        self.model = model
        if self.device.type != "cpu" or dtype != torch.float32:
            self.model = copy.deepcopy(model).to(device, dtype)
            # A power of 1e-10 is 0 in float16.
            self.model.audio_encoder.mel = copy.deepcopy(model.audio_encoder.mel).to(device)
        config = model.config.decoder
        self.gpt = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.n_positions,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).eval()
        prefix = "decoder."
        weights = {
            "transformer." + name.removeprefix(prefix): value
            for name, value in model.state_dict().items()
            if name.startswith(prefix)
        }
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        self.gpt.load_state_dict(weights)
        self.gpt.to(self.device, dtype)

    def audio_prefix(self, wave: Tensor) -> Tensor:
        """The audio prefix [B, P, C] of waveforms [B, samples] on any device; compilable."""
        encoder = self.model.audio_encoder
        image = encoder.mel(wave.to(self.device)).to(self.dtype)
        return self.model.map_audio(encoder.projection(encoder.htsat(image))).prefix

    def text_prefix(self, ids: Tensor) -> Tensor:
        """The text prefix [B, P, C] of ids [B, T] on any device."""
        return self.model.encode_text(ids.to(self.device)).prefix

    @torch.inference_mode()
    def prefix(self, wave: Tensor, ids: Tensor, text: Tensor | None = None) -> Tensor:
        """Both prefixes, [B, P, C], which the released wrapper recomputes on every call.

        If ``text`` [1, P, C] is given, the prompt is not encoded again.
        """
        audio = self.audio_prefix(wave)
        text = self.text_prefix(ids) if text is None else text
        return torch.cat([audio, text.expand(len(audio), -1, -1)], dim=1)

    @torch.inference_mode()
    def released(self, wave: Tensor, ids: Tensor, beams: int, steps: int) -> list[list[int]]:
        """As the released wrapper: without a cache, so every step recomputes all beams."""
        sequence = self.prefix(wave, ids)
        tokens = torch.empty(1, 0, dtype=torch.int64, device=self.device)
        scores = torch.zeros(1, device=self.device)
        for step in range(steps):
            logits = self.gpt(inputs_embeds=sequence, use_cache=False).logits[:, -1]
            candidates = (scores[:, None] + logits.float().softmax(-1).log()) / (step + 1)
            average, flat = candidates.flatten().topk(beams)
            source, token = flat // logits.shape[1], flat % logits.shape[1]
            scores = average * (step + 1)
            tokens = torch.cat([tokens[source], token[:, None]], dim=1)
            embedded = self.gpt.transformer.wte(token)[:, None]
            sequence = torch.cat([sequence[source], embedded], dim=1)
        return [list(map(int, row)) for row in tokens.tolist()]

    @torch.inference_mode()
    def hugging_face(
        self, wave: Tensor, ids: Tensor, beams: int, steps: int, text: Tensor | None = None
    ) -> Tensor:
        """Hugging Face's ``generate``, with a key/value cache and its own beam rule."""
        prefix = self.prefix(wave, ids, text)
        generated: Tensor = self.gpt.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64, device=self.device),
            num_beams=beams,
            min_new_tokens=steps,
            max_new_tokens=steps,
            do_sample=False,
        )
        return generated.cpu()
