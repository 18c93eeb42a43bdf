"""The floating-point operations of a training step.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

from transformer.config import TransformerConfig

__all__ = ["step_flops"]


def step_flops(config: TransformerConfig, rows: int, source: int, target: int) -> int:
    """Floating-point operations of a training step on `rows` sentences of these lengths.

    Only matrix products count: two for each multiplication with its addition, and the
    backward pass takes twice as many as the forward pass.
    """
    d, share = config.d_model, config.d_model // config.num_heads
    widths = config.num_heads * ((config.d_k or share) + (config.d_v or share))
    project, feed_forward = d * widths, 2 * d * config.d_ff  # of one token
    encoder = source * (2 * project + feed_forward) + source * source * widths
    decoder = target * (3 * project + feed_forward) + source * project
    decoder += target * (target + source) * widths
    stacks = config.num_layers * (encoder + decoder)
    return 3 * 2 * rows * (stacks + target * d * config.vocab_size)
