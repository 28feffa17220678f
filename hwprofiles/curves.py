"""The forms of the step-cost and power model: one record per curve, with its fit error.

Symbols of the formulas: m, n, k are the sizes of a matrix product, peak and bandwidth come from
the hardware profile, ``exponent`` p joins two times as (a^p + b^p)^(1/p): 1 adds them, infinity
takes the larger (a roofline).
"""

import bisect
import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DATASHEET = "datasheet"  # as `borrowed_from`: no measured device stands behind the coefficients

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Fitted efficiencies may exceed 1 a little: clocks above nominal, or bytes counted too low.
Efficiency = Annotated[float, Field(gt=0, le=2)]
Exponent = Annotated[float, Field(gt=0)]


class Group(BaseModel):
    """Coefficients fitted together.

    Parameters
    ----------
    source : str
        What they were fitted on.
    error : str
        Fit error in words, for people.
    borrowed_from : str or None
        Name of the device they were fitted on, if it is another one; "datasheet" if none was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    source: str = Field(min_length=1)
    error: str = Field(min_length=1)
    borrowed_from: str | None = None


class GemmCurve(Group):
    """Dense matrix product: t = latency_s + (a^p + b^p)^(1/p). [s]

    Plain form (``wave`` None): a = 2·m·n·k / (peak·compute_efficiency). Tiled form:
    a = 2·k·128·t·(ceil(m/t)·ceil(n/128) + wave·compute_units) / (peak·compute_efficiency) with
    t = 64 if m <= 64 else 128. Both: b = bytes of weights, input and output
    / (bandwidth·memory_efficiency).

    ``slowdown`` multiplies t by a measured factor, given at some numbers of rows m, linear between
    them and constant beyond: kernels for few rows follow no smooth curve.
    """

    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    latency_s: NonNegative
    exponent: Exponent
    wave: NonNegative | None = None
    slowdown: dict[Annotated[int, Field(ge=1)], NonNegative] = Field(default_factory=dict)

    def slowdown_at(self, rows: int) -> float:
        """The factor at m = ``rows``, 1 if there is none."""
        if not self.slowdown:
            return 1.0
        known = sorted(self.slowdown)
        place = bisect.bisect_left(known, rows)
        if place == 0 or place == len(known):
            return self.slowdown[known[min(place, len(known) - 1)]]
        below, above = known[place - 1], known[place]
        share = (rows - below) / (above - below)
        return (1 - share) * self.slowdown[below] + share * self.slowdown[above]


class DecodeAttentionCurve(Group):
    """t = latency_s + sequence_head_s·sequences·kv_heads + KV bytes/(bandwidth·efficiency). [s]"""

    latency_s: NonNegative
    memory_efficiency: Efficiency
    sequence_head_s: NonNegative


class PrefillAttentionCurve(Group):
    """Attention of a chunk of s new tokens after `prior` ones, per sequence and layer. [s]

    t = latency_s + 4·heads·head_dim·s·(s/2 + prior + extra_tokens) / (peak·compute_efficiency)
    """

    latency_s: NonNegative
    compute_efficiency: Efficiency
    extra_tokens: NonNegative


class MixedAttentionCurve(Group):
    """Attention of decoders beside a prompt, where one kernel serves both (FlashAttention 2).

    The kernel computes tiles of many query rows. Each query head of a decoder takes a tile for its
    one row, and reads the context on its own, though heads share KV. In one layer, prompts that
    take P alone and D decoders of summed context C with H query heads take together [s]

    t = max(P + H·row_s·(D·extra_tokens + C), compute_units·row_s·C/D, decoders alone),
    row_s = 2·(head_dim + value_dim)·decoder_rows / (peak·compute_efficiency)

    with efficiency and extra_tokens of ``prefill_attention``: a compute unit has one head of one
    decoder at a time. A token of context takes no less than in ``decode_attention``.

    Parameters
    ----------
    decoder_rows : float
        Query rows that a decoder's one takes the time of. [1]
    """

    decoder_rows: NonNegative


class AllReduceCurve(Group):
    """t = (latency_s^p + (message bytes/(link rate·link_efficiency))^p)^(1/p). [s]

    The link rate is ``links.intra_node.bytes_per_s`` of the profile.
    """

    latency_s: NonNegative
    link_efficiency: Efficiency
    exponent: Exponent


class FusedNorms(Group):
    """All-reduces that take over the norm behind them.

    Parameters
    ----------
    saved_s : float
        What a norm of its own takes longer. [s]
    up_to_bytes : dict of int to int
        Longest message that is fused, by tensor-parallel size; none of other sizes is. [B]
    """

    saved_s: NonNegative
    up_to_bytes: dict[int, int]


class MoeCurve(Group):
    """Expert layer for T tokens with k experts each. [s]

    t = latency_s + routed_token_s·T·k + (a^p + b^p)^(1/p), a = FLOP/(peak·compute_efficiency),
    b = bytes of the touched experts/(bandwidth·memory_efficiency)
    """

    latency_s: NonNegative
    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    routed_token_s: NonNegative
    exponent: Exponent


class GemmTable(Group):
    """Measured times of matrix products on a grid of sizes (`hwprofiles/gemms.py`).

    Beyond the grid, and on devices that were not measured, they are scaled by the curve's ratio.
    """

    table: str


class MoeTable(Group):
    """Measured times of expert layers by shape, instead of the curve (`hwprofiles/experts.py`).

    Shapes and devices that were not measured scale the nearest shape by the curve's ratio.
    """

    table: str


class Elementwise(Group):
    """Norms, rotary embedding, activations and what else grows with tokens.

    Parameters
    ----------
    traffic : float
        Factor on the time to move their data at nominal bandwidth. [1]
    """

    traffic: NonNegative


class Overheads(Group):
    """What a step costs beside its operators.

    Parameters
    ----------
    step_s, layer_s, sequence_s : float
        Per step, per layer and step, per sequence and step. [s]
    logit_s : float
        Per sequence that samples by top-k or top-p and vocabulary entry. [s]
    tail : float
        Factor on tail time = layers·(max - mean context)·head_dim·4 B /
        (bandwidth·memory_efficiency/compute_units)·min(1, sequences·kv_heads
        /(0.8·compute_units)): the longest sequence keeps one compute unit busy. [1]
    expert_layer_s : dict of str to float
        Per layer of routed experts and step, by data type of their weights: what an engine needs
        beyond the kernels of the curve or table. [s]
    """

    step_s: NonNegative
    layer_s: NonNegative
    sequence_s: NonNegative
    logit_s: NonNegative
    tail: NonNegative
    expert_layer_s: dict[str, NonNegative] = Field(default_factory=dict)


class EagerSteps(Group):
    """Least time of a step too large for a CUDA graph: the host starts its kernels one by one.

    Parameters
    ----------
    layer_s, expert_layer_s : float
        Per layer, and more per layer of routed experts. [s]
    """

    layer_s: NonNegative
    expert_layer_s: NonNegative


class FrontEndLatency(Group):
    """Server and client around the engine it was calibrated with.

    Parameters
    ----------
    ingest_s : float
        From sending a request to the input of an idle engine. [s]
    ingest_gap_s : float
        Between requests that are sent at once. [s]
    output_s : float
        From the end of a step to the client. [s]
    ingest_s_per_token : float
        To tokenise a token of a prompt, one prompt at a time; 0 if prompts come as token ids. [s]
    """

    ingest_s: NonNegative
    ingest_gap_s: NonNegative
    output_s: NonNegative
    ingest_s_per_token: NonNegative = 0.0


class PowerCurve(Group):
    """Power of one device; the limit is ``power.max_w`` of the profile.

    P = idle_w + active_w·(1 - all-reduce time/step) + j_per_flop·FLOP/s, then
    P / (1 + (P/limit)^8)^(1/8). [W]
    """

    idle_w: NonNegative
    active_w: NonNegative
    j_per_flop: NonNegative


def norm(a: float, b: float, exponent: float) -> float:
    """(a^p + b^p)^(1/p): the sum for p = 1, the larger for p = infinity."""
    larger, smaller = (a, b) if a > b else (b, a)
    if larger <= 0.0 or math.isinf(exponent):
        return larger
    return float(larger * (1.0 + (smaller / larger) ** exponent) ** (1.0 / exponent))
