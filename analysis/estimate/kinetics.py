"""The cost law of Kinetics: FLOPs and memory traffic of test-time compute as one number.

Sadhukhan et al., Kinetics: Rethinking Test-Time Scaling Laws (2025): eFLOPs = C_comp + I·C_mem,
with `I` the FLOP that a device can do while it reads a byte. For `n` samples of `output` tokens on
a prompt of `prompt` tokens:

    C_comp = n·(2·params·output + 2·(2·prompt + output)·output·heads·d)
    C_mem  = 2·(2·prompt + output·n)·output·kv_heads·d,    d = head_dim·layers

The prompt's KV is read once for all samples; reading weights is taken as shared by a large batch,
and prefill is left out.
"""

from ttcsim.simulator.architecture import Architecture

B200_FLOP_PER_BYTE = 562.5
"""Intensity that the paper uses: 4.5 PFLOP/s over 8 TB/s. [FLOP/B]"""


def kinetics_flops(
    model: Architecture,
    prompt: float,
    output: float,
    n: int = 1,
    parameters: float | None = None,
    flop_per_byte: float = B200_FLOP_PER_BYTE,
) -> tuple[float, float]:
    """(C_comp, I·C_mem) of one question. [FLOP]

    Args:
        model: The model; layers of full attention count.
        prompt: Tokens of the prompt. [tokens]
        output: Tokens of each sample. [tokens]
        n: Samples.
        parameters: Active parameters instead of the model's.
        flop_per_byte: Intensity of the device. [FLOP/B]
    """
    sizes = model.attention
    depth = sizes.head_dim * sizes.full_layers
    active = model.active_parameters if parameters is None else parameters
    linear = 2 * active * output
    attention = 2 * (2 * prompt + output) * output * sizes.heads * depth
    read = 2 * (2 * prompt + output * n) * output * sizes.kv_heads * depth
    return n * (linear + attention), flop_per_byte * read
