"""Recurrent encoder-decoders, with and without attention.

Chapter: What attention replaced
Exported from chapters/02_replaced.md; edit it there, not here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from transformer.encoder_decoder import EncoderDecoder, _Memory, _Source, _States, _Target
from transformer.masking import padding_mask

__all__ = ["AdditiveAttention", "RecurrentConfig", "RecurrentState", "RecurrentTranslator", "alignment"]

_Vector = Float[Tensor, "batch width"]
_Entries = Float[Tensor, "batch entries width"]
_Mask = Bool[Tensor, "batch entries"]
_Weights = Float[Tensor, "batch entries"]


class AdditiveAttention(nn.Module):
    """The soft look-up of Bahdanau et al. (2015): scores v · tanh(W s + U h_j)."""

    def __init__(self, width: int):
        super().__init__()
        self.of_state = nn.Linear(width, width)  # W
        self.of_entry = nn.Linear(width, width, bias=False)  # U
        self.score = nn.Linear(width, 1, bias=False)  # v

    def forward(
        self, state: _Vector, keys: _Entries, values: _Entries, mask: _Mask
    ) -> tuple[_Vector, _Weights]:
        """The average of `values` and the weights; `keys` are `of_entry(values)`.

        In `mask`, True means "may attend"; a state that may attend to nothing gets zeros.
        """
        network = torch.tanh(self.of_state(state)[:, None] + keys)  # (batch, entries, width)
        scores = self.score(network)[..., 0]  # (batch, entries)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)
        return (weights[:, None] @ values)[:, 0], weights


@dataclass(frozen=True)
class RecurrentConfig:
    """Every size of a recurrent translator. Without attention it knows one vector of the source."""

    vocab_size: int  #: one for both languages
    d_model: int = 256  #: of word vectors, memory and states; each reading direction has half
    num_layers: int = 1  #: in the encoder, and as many in the decoder
    attention: bool = True
    dropout: float = 0.1
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    def __post_init__(self) -> None:
        if self.d_model < 2 or self.d_model % 2:
            raise ValueError(f"d_model must be even (half for each direction), not {self.d_model}")
        if self.num_layers < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"num_layers {self.num_layers} or dropout {self.dropout} is out of range")
        special = {self.pad_id, self.bos_id, self.eos_id}
        if len(special) < 3 or not special <= set(range(self.vocab_size)):
            raise ValueError(f"the special ids must be three, below {self.vocab_size}, not {special}")


class RecurrentState:
    """Where a recurrent translator stands in some sentences ("rows") that it writes side by side."""

    def __init__(self, model: Any, memory: _Entries, source: Int[Tensor, "batch source"]):
        self.model, self.memory = model, memory
        self.mask = padding_mask(source, model.config.pad_id)[:, 0, 0, : memory.shape[1]]
        self.keys = model.attention.of_entry(memory) if model.attention else memory
        first = torch.tanh(model.first(memory[:, 0]))  # (batch, layers · width)
        layers = first.unflatten(-1, (-1, memory.shape[-1]))  # (batch, layers, width)
        self.hidden = layers.transpose(0, 1).contiguous()  # (layers, batch, width)

    def look(self) -> tuple[_Vector, _Weights]:
        """The context that the state asks for, and the weights; without attention, the one vector."""
        if self.model.attention is None:
            return self.memory[:, 0], torch.ones_like(self.memory[..., 0])
        return self.model.attention(self.hidden[-1], self.keys, self.memory, self.mask)

    def read(self, words: _Vector) -> _Vector:
        """Go on by one word in each row; return the new state, the top layer's."""
        together = torch.cat([words, self.look()[0]], dim=-1)[:, None]  # (batch, 1, 2 · width)
        self.hidden = self.model.decoder(together, self.hidden)[1]
        return self.hidden[-1]

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each row; return the logits of the next."""
        return self.model.project(self.read(self.model.embedding(tokens)))

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; one may be kept several times."""
        self.memory, self.keys, self.mask = self.memory[rows], self.keys[rows], self.mask[rows]
        self.hidden = self.hidden[:, rows]


class RecurrentTranslator(EncoderDecoder):
    """The recurrent encoder-decoder, with Bahdanau's attention or with one vector a sentence."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config, width, layers = config, config.d_model, config.num_layers
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.encoder = nn.GRU(width, width // 2, layers, batch_first=True, bidirectional=True)
        self.first = nn.Linear(width, layers * width)
        self.attention = AdditiveAttention(width) if config.attention else None
        self.decoder = nn.GRU(2 * width, width, layers, batch_first=True)
        self.output = nn.Linear(width, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, source: _Source) -> _Memory:
        """An entry for each token of the source with attention, else one alone."""
        words, lengths = self.dropout(self.embedding(source)), (source != self.config.pad_id).sum(1)
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)  # last: (2 · layers, batch, width / 2)
        if self.attention is None:
            return torch.cat([last[-2], last[-1]], dim=-1)[:, None]  # (batch, 1, width)
        return pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])[0]

    def decode(self, target: _Target, memory: _Memory, source: _Source) -> _States:
        """The decoder's state after each token of `target`."""
        state, words = RecurrentState(self, memory, source), self.dropout(self.embedding(target))
        if self.attention is None:
            together = torch.cat([words, memory.expand(-1, words.shape[1], -1)], dim=-1)
            return self.dropout(self.decoder(together, state.hidden)[0])
        return self.dropout(torch.stack([state.read(word) for word in words.unbind(1)], dim=1))

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """The weights (vocab, width) and the bias that turn a state into logits."""
        return self.output.weight, self.output.bias

    def start(self, source: _Source) -> RecurrentState:
        """The state of these sentences before the first word, for decoding."""
        return RecurrentState(self, self.encode(source), source)


@torch.no_grad()
def alignment(
    model: RecurrentTranslator, source: _Source, target: _Target
) -> Float[Tensor, "batch target source"]:
    """The weights on the source, looked up to write what follows each token of `target`.

    Raises ValueError if the model has no attention.
    """
    if model.attention is None:
        raise ValueError("a model without attention looks nowhere")
    state, looks = model.start(source), []
    for tokens in target.unbind(1):  # (batch,)
        looks.append(state.look()[1])
        state.read(model.embedding(tokens))
    return torch.stack(looks, dim=1)
