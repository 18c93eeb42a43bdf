"""What every encoder-decoder of this book can do.

Chapter: What attention replaced
Exported from chapters/02_replaced.md; edit it there, not here.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["EncoderDecoder"]

_Source = Int[Tensor, "batch source"]
_Target = Int[Tensor, "batch target"]
_Memory = Float[Tensor, "batch memory width"]
_States = Float[Tensor, "batch target width"]


class EncoderDecoder(nn.Module):
    """A model of p(target | source), token by token: what loss and decoding ask of it.

    `config` holds at least vocab_size, pad_id, bos_id and eos_id, and d_model, the width.
    """

    config: Any

    def encode(self, source: _Source) -> _Memory:
        """What the encoder makes of a sentence ("memory"), computed once."""
        raise NotImplementedError

    def decode(self, target: _Target, memory: _Memory, source: _Source) -> _States:
        """The decoder's state after each prefix of `target`."""
        raise NotImplementedError

    def output_layer(self) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, " vocab"] | None]:
        """The weights, and a bias if there is one, that turn a state into logits."""
        raise NotImplementedError

    def frozen(self) -> "EncoderDecoder":
        """The same model, made ready to decode many times, if there is anything to make ready."""
        return self

    def project(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """The logits of every token, from states."""
        return F.linear(states, *self.output_layer())

    def forward(self, source: _Source, target: _Target) -> Float[Tensor, "batch target vocab"]:
        """Logits of the token after each prefix of `target`, which begins with bos_id."""
        return self.project(self.decode(target, self.encode(source), source))
