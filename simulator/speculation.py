"""Speculative decoding: what drafts, and how many of its tokens the model accepts."""

import math
from dataclasses import dataclass

from ttcsim.errors import InputError
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.request import Request
from ttcsim.simulator.scenario import SpeculativeConfig
from ttcsim.workloads.draws import uniform


@dataclass(frozen=True, slots=True)
class Drafter:
    """What proposes tokens: a small model, or a module of the model that it drafts for."""

    model: Architecture
    shares_vocabulary: bool

    def weight_bytes(self, tp: int, dp: int = 1) -> int:
        """Return the bytes of its own weights on one rank. [bytes]"""
        weights = self.model.weight_bytes(tp, dp=dp)
        if self.shares_vocabulary:
            weights -= round(self.model.lm_head(tp).weight_bytes)
        return weights


def make_drafter(name: str, config: SpeculativeConfig, target: Architecture) -> Drafter:
    """The drafter that a deployment names.

    Raises:
        InputError: If there is none of that name, or its vocabulary is not the target's.
    """
    if config.model is None:
        return Drafter(target.draft_module(), shares_vocabulary=True)
    model = load_model(config.model)
    if target.dtype == "fp32":
        model = model.with_dtype("fp32")
    if model.vocab != target.vocab:
        raise InputError(
            f"{name}.engine.speculative_config.model: a draft model needs the vocabulary of"
            f" {target.name}, {target.vocab} tokens ({model.name} has {model.vocab})"
        )
    return Drafter(model, shares_vocabulary=False)


class Acceptance:
    """A draft token is accepted with probability `rate`, if all drafts before it were.

    So a step with k drafts brings (1 - rate^(k+1)) / (1 - rate) tokens on average (Leviathan,
    Kalman, Matias: Fast inference from transformers via speculative decoding, ICML 2023, eq. 1).
    Draws are keyed by request and position.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._seed = seed

    def accepted(self, request: Request, drafts: int) -> int:
        """How many of the next `drafts` tokens of a request are accepted."""
        if self._rate <= 0.0:
            return 0
        if self._rate >= 1.0:
            return drafts
        draw = uniform(self._seed, request.id, request.outputs, "acceptance")
        return min(drafts, int(math.log(draw) / math.log(self._rate)))
