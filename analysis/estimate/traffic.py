"""FLOPs and bytes of the steps of an engine."""

from ttcsim.analysis.estimate.lone_engine import Work
from ttcsim.simulator.plans import Plan


def flops_of(plan: Plan, work: Work) -> float:
    """FLOPs of all devices: 2 for each weight and token, and attention over contexts. [FLOP]"""
    operators = plan.cost.operators
    tokens = work.decoded + work.prefilled
    per_token = operators.by_tokens(1)[2] * tokens
    head = operators.by_samples(1)[1] * (work.decoded + work.prefills)
    _, context = operators.attention.context_token()
    _, window = operators.attention.window_token()
    attention = context * (work.read + work.pairs)
    attention += window * (work.read_in_windows + work.pairs_in_windows)
    return plan.deployment.tensor_parallel * (per_token + head + attention)


def bytes_of(plan: Plan, work: Work) -> float:
    """Bytes of all devices: weights once a step (experts as touched), KV as it is read. [B]"""
    tp = plan.deployment.tensor_parallel
    weights: float = plan.model.weight_bytes(tp) - _input_embedding_bytes(plan)
    experts = plan.model.experts(tp)
    layers = plan.model.attention
    read = work.kv if plan.cost.operators.attention.caches_context else work.read
    tokens = layers.full_layers * read + layers.sliding_layers * min(read, work.read_in_windows)
    tokens += plan.model.attention_layers * work.prefilled
    moved = plan.model.kv_bytes_per_token(tp) / plan.model.attention_layers * tokens
    if experts is not None:
        layer = experts.layers * experts.bytes_per_expert
        weights -= layer * experts.experts
        moved += layer * work.experts
    return tp * (moved + work.steps * weights)


def _input_embedding_bytes(plan: Plan) -> float:
    """The table of input embeddings, of which a step reads a row a token: next to nothing. [B]"""
    if plan.model.tied_embeddings:
        return 0.0
    return plan.model.lm_head(plan.deployment.tensor_parallel).weight_bytes
