"""What pengi-rt is measured against: the ways people run Pengi in PyTorch today.

All take the same waveform and prompt tokens and give the same number of new tokens; none may stop
early.
"""

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pengi_rt.models.pengi import Pengi


class PyTorch:
    """The reference model eager, its decoder the Hugging Face module of the released code."""

    def __init__(self, model: Pengi) -> None:
        self.model = model
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

    @torch.inference_mode()
    def prefix(self, wave: Tensor, ids: Tensor) -> Tensor:
        """[1, P, C]: both encoders and mappers, as the released wrapper runs them on every call."""
        return torch.cat([self.model.encode_audio(wave)[1], self.model.encode_text(ids)[1]], dim=1)

    @torch.inference_mode()
    def released(self, wave: Tensor, ids: Tensor, beams: int, steps: int) -> list[list[int]]:
        """The released wrapper's way: no cache, every step recomputes all beams from the start."""
        sequence = self.prefix(wave, ids)
        tokens = torch.empty(1, 0, dtype=torch.int64)
        scores = torch.zeros(1)
        for step in range(steps):
            logits = self.gpt(inputs_embeds=sequence, use_cache=False).logits[:, -1]
            candidates = (scores[:, None] + logits.softmax(-1).log()) / (step + 1)
            average, flat = candidates.flatten().topk(beams)
            source, token = flat // logits.shape[1], flat % logits.shape[1]
            scores = average * (step + 1)
            tokens = torch.cat([tokens[source], token[:, None]], dim=1)
            embedded = self.gpt.transformer.wte(token)[:, None]
            sequence = torch.cat([sequence[source], embedded], dim=1)
        return [list(map(int, row)) for row in tokens]

    @torch.inference_mode()
    def hugging_face(self, wave: Tensor, ids: Tensor, beams: int, steps: int) -> Tensor:
        """Hugging Face ``generate`` with its key/value cache, and its own beam rule."""
        generated: Tensor = self.gpt.generate(
            inputs_embeds=self.prefix(wave, ids),
            attention_mask=torch.ones(1, self.model.config.prefix_length, dtype=torch.int64),
            num_beams=beams,
            min_new_tokens=steps,
            max_new_tokens=steps,
            do_sample=False,
        )
        return generated
