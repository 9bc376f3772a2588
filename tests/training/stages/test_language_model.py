"""The language model's loss against a plain computation, for plain text and for reading."""

import pytest
import torch
from tokenizers import Tokenizer
from training_run import variant

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tokenizers, random_model
from pengi_rt.training.config import DataConfig, _model
from pengi_rt.training.data import TextData
from pengi_rt.training.examples import NOTHING, RowEncoder
from pengi_rt.training.manifest import Row
from pengi_rt.training.stages.language_model import LanguageModel, naming_loss

ROWS = [
    Row(1, None, "caption", "generate audio caption", "a dog barks!", (), "dog loud"),
    Row(2, None, "qa", "question: what is heard?", "!", (), "rain quiet wind loud thunder loud"),
    Row(3, None, "events", "this is a sound of", "dog, siren", (), ""),
    Row(4, None, "scene", "this acoustic scene is", "a small room", (), "dog loud | room"),
    Row(5, None, "caption", "generate audio caption", "water drips", (), "a dog|b|c d|e f g|h"),
]


@pytest.fixture(scope="module")
def parts() -> tuple[Pengi, dict[str, bytes], Tokenizer]:
    config = PengiConfig.from_dict(_model(variant("released")))
    tokenizers = make_tokenizers(config)
    return random_model(config), tokenizers, Tokenizer.from_buffer(tokenizers["decoder"])


def losses(model: Pengi, prefix: torch.Tensor | None, ids: list[int]) -> list[float]:
    """Cross-entropy of each id after those before it; without a prefix, from the second on."""
    rows = model.decoder.wte(torch.tensor([ids]))
    rows = rows if prefix is None else torch.cat([prefix, rows], dim=1)
    hidden, _ = model.decoder(rows, torch.arange(rows.shape[1]))
    log_p = model.decoder.logits(hidden)[0].log_softmax(dim=-1)
    first = 0 if prefix is None else prefix.shape[1]
    return [
        -float(log_p[first + place - 1, token])
        for place, token in enumerate(ids)
        if first + place > 0
    ]


def data(parts: tuple[Pengi, dict[str, bytes], Tokenizer], *prompts: str) -> TextData:
    model, tokenizers, _ = parts
    encoder = RowEncoder(model.config, tokenizers, 77)
    return TextData(ROWS, encoder, DataConfig(), seed=0, prompts=prompts)


def order(found: TextData) -> list[Row]:
    return [ROWS[found.order.index(position)] for position in range(len(ROWS))]


def test_plain_text_is_predicted_from_its_second_token(
    parts: tuple[Pengi, dict[str, bytes], Tokenizer],
) -> None:
    model, _, tokenizer = parts
    with torch.no_grad():
        found = LanguageModel(model)(data(parts)[list(range(5))])["loss"]
        every = [
            loss
            for row in ROWS
            for loss in losses(model, None, tokenizer.encode(f"{row.target} <|endoftext|>").ids)
        ]
    torch.testing.assert_close(float(found), sum(every) / len(every), rtol=2e-5, atol=0)


@pytest.mark.parametrize("prompts", [("tokens",), ("encoder",), ("encoder", "tokens")])
def test_reading_counts_the_answers_alone(
    prompts: tuple[str, ...], parts: tuple[Pengi, dict[str, bytes], Tokenizer]
) -> None:
    """Transcript (cut or filled to the audio prefix), prompt, answer; five rows in two groups.

    Bars split a transcript into rows of the prefix, each the sum of its words; else every token is
    a row.
    """
    model, tokenizers, tokenizer = parts
    text = Tokenizer.from_buffer(tokenizers["text"])
    read = data(parts, *prompts)
    every: list[float] = []
    with torch.no_grad():
        found = LanguageModel(model)(read[list(range(5))])["loss"]
        for place, row in enumerate(order(read)):
            kind = prompts[0] if len(prompts) == 1 else prompts[place >= 2]
            words = row.transcript.split("|")
            slots = [tokenizer.encode(f" {word.strip()}").ids for word in words]
            if len(words) == 1:
                slots = [[token] for token in slots[0]]
            slots = [*slots, [0], [0], [0]][:3]
            summed = [model.decoder.wte.weight[slot].sum(dim=0) for slot in slots]
            prefix = torch.stack(summed)[None]
            asked = tokenizer.encode(row.prompt).ids
            if kind == "encoder":
                ids = torch.tensor([[510, *text.encode(row.prompt).ids, 511]])
                prefix = torch.cat([prefix, model.encode_text(ids).prefix], dim=1)
                asked = []
            said = tokenizer.encode(f"{row.target} <|endoftext|>").ids
            every += losses(model, prefix, [*asked, *said])[-len(said) :]
    torch.testing.assert_close(float(found), sum(every) / len(every), rtol=2e-5, atol=0)


def test_every_row_is_read_once_however_many_groups(
    parts: tuple[Pengi, dict[str, bytes], Tokenizer],
) -> None:
    for size in (1, 2, 3, 5):
        groups = data(parts, "encoder", "tokens")[list(range(size))]
        assert sum(len(group.tokens) for group in groups) == size
        assert all(len(group.tokens) for group in groups)


def test_task_weights_are_frequencies(parts: tuple[Pengi, dict[str, bytes], Tokenizer]) -> None:
    model, tokenizers, _ = parts
    config = DataConfig(task_weights={"qa": 3.0, "scene": 0.0})
    encoder = RowEncoder(model.config, tokenizers, 77)
    weighed = TextData(ROWS, encoder, config, seed=0)
    drawn = [ROWS[weighed._index(position)].task for position in range(4000)]
    # Weights 1, 3, 1, 0, 1 of six. Four standard deviations of a share are below 0.032.
    for task, share in (("caption", 2 / 6), ("qa", 3 / 6), ("events", 1 / 6), ("scene", 0.0)):
        assert abs(drawn.count(task) / 4000 - share) < 0.032


def test_naming_loss_equals_its_definition() -> None:
    model = random_model(PengiConfig.preset("tiny"))
    prefix = torch.randn(2, 3, model.config.decoder.n_embd)
    words = torch.tensor([[5, 9, 9], [7, NOTHING, NOTHING]])
    table = model.decoder.wte.weight
    surprises = []
    for row, ids in zip(prefix, words, strict=True):
        spread = row.var(1, keepdim=True, correction=0) + 1e-5
        normal = (row - row.mean(1, keepdim=True)) / spread.sqrt()
        mixture = (normal @ table.T).softmax(dim=1).mean(dim=0)
        surprises += [-mixture[word].log() for word in ids if word != NOTHING]
    expected = torch.stack(surprises).mean()
    torch.testing.assert_close(naming_loss(model, prefix, words), expected, rtol=1e-4, atol=1e-4)


def test_a_prefix_of_the_words_own_embeddings_names_them() -> None:
    model = random_model(PengiConfig.preset("tiny"))
    words = torch.tensor([[11, 12]])
    own = model.decoder.wte(words) * 50
    other = model.decoder.wte(words + 100) * 50
    assert naming_loss(model, own, words) < naming_loss(model, other, words)
