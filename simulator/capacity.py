"""How many KV blocks fit beside the weights: vLLM's memory rule, with a modelled profile run."""

from dataclasses import dataclass

from ttcsim.errors import InfeasibleError
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture
from ttcsim.simulator.speculation import Drafter

NON_TORCH_BYTES = 1 << 30
"""CUDA context, NCCL and captured graphs of one GPU. Assumption: about 1 GiB; a measured number of
KV blocks can be given instead."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device of an engine. [bytes]"""

    requested: int
    weights: int
    activations: int
    other: int
    block: int

    @property
    def left(self) -> int:
        """What remains for KV blocks; negative if the model does not fit."""
        return self.requested - self.weights - self.activations - self.other

    @property
    def blocks(self) -> int:
        """KV blocks that fit, the null block included."""
        return max(self.left, 0) // self.block


def memory(
    model: Architecture,
    profile: HardwareProfile,
    tensor_parallel: int,
    pipeline_parallel: int,
    utilization: float,
    block_size: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    data_parallel: int = 1,
    drafter: Drafter | None = None,
) -> Memory:
    """Split a device's memory as vLLM does when it starts (docs/scheduling.md, capacity).

    In a pipeline, the stage with the most layers has the fewest blocks; vLLM gives all as many.

    requested = memory · utilization; KV gets what weights, the peak of a profile run with a full
    token budget, and everything outside of torch leave over. The peak is modelled as one layer's
    activations plus the logits of `max_num_seqs` sequences in 16 and 32 bit. A `drafter` has
    its weights and its KV beside the model's. States of
    linear attention are reserved for `max_num_seqs` sequences (vLLM takes them from the same pool).
    """
    value = BYTES_PER_VALUE[model.dtype]
    parts = model.feed_forward
    width = max(parts.intermediate, parts.shared_intermediate)
    if parts.routed:
        width = max(width, parts.routed.top_k * parts.routed.intermediate)
    per_token = (4 * model.hidden + 3 * width / tensor_parallel) * value
    samples = min(max_num_batched_tokens, max_num_seqs)
    logits = samples * model.vocab * (value + 4)
    weights = model.weight_bytes(tensor_parallel, pipeline_parallel, data_parallel)
    kv_bytes = model.kv_bytes_per_token(tensor_parallel, pp=pipeline_parallel)
    if drafter is not None:
        weights += drafter.weight_bytes(tensor_parallel, data_parallel)
        kv_bytes += drafter.model.kv_bytes_per_token(tensor_parallel)
    states = max_num_seqs * model.state_bytes(tensor_parallel, pipeline_parallel)
    return Memory(
        requested=int(profile.require("memory.hbm.bytes") * utilization),
        weights=weights,
        activations=round(max_num_batched_tokens * per_token + logits) + states,
        other=NON_TORCH_BYTES if profile.kind == "gpu" else 0,
        block=kv_bytes * block_size,
    )


def kv_blocks(name: str, found: Memory, wanted: int | None = None) -> int:
    """Return the number of blocks: as many as fit, or as many as are wanted.

    Raises:
        InfeasibleError: If not even two fit, or not those wanted; says by how many bytes.
    """
    if found.blocks < (wanted or 2):
        short = (wanted or 2) * found.block - found.left
        raise InfeasibleError(
            f"{name} does not fit: {short:,} bytes too many for one device ({found.requested:,}"
            f" usable; weights {found.weights:,}, activations {found.activations:,},"
            f" other {found.other:,})"
        )
    return wanted or found.blocks
