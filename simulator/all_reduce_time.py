"""How long the devices of an engine take to share results: all-reduces, and gathers of logits."""

from dataclasses import dataclass

from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.curves import norm
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture


@dataclass(frozen=True, slots=True)
class _AllReduces:
    """So many of a step, all over as many bytes a token."""

    count: int
    latency_s: float
    token_s: float
    exponent: float

    def seconds(self, tokens: int) -> float:
        """Duration of all of them. [s]"""
        return self.count * norm(self.latency_s, tokens * self.token_s, self.exponent)


class AllReduceTime:
    """What `tensor_parallel` devices of each of `data_parallel` engines exchange in a step.

    Raises:
        InputError: If the profile or the calibration lacks a number that is needed.
    """

    def __init__(
        self,
        model: Architecture,
        profile: HardwareProfile,
        calibration: Calibration,
        tensor_parallel: int,
        data_parallel: int,
        fuse_allreduce_rms: bool,
    ) -> None:
        self._model = model
        self._profile = profile
        self._calibration = calibration
        self._tp = tensor_parallel
        self._dp = data_parallel
        self._of_hidden = model.hidden * BYTES_PER_VALUE[model.dtype]
        self._of_step = self._all_reduces_of_a_step()
        # Every device gets all logits: half of what an all-reduce of them moves over the links.
        logits = model.vocab * BYTES_PER_VALUE[model.dtype]
        self._of_logits = self._over(1, tensor_parallel, logits / 2)
        self._fused_tokens, self._fused_s = self._norms_taken_over(fuse_allreduce_rms)

    def step_s(self, tokens: int) -> float:
        """All-reduces of a step with so many tokens. [s]"""
        return sum(each.seconds(tokens) for each in self._of_step)

    def logits_s(self, samples: int) -> float:
        """Gathering the logits of so many samples. [s]"""
        return sum(each.seconds(samples) for each in self._of_logits)

    def saved_s(self, tokens: int) -> float:
        """Overhead of the norms that the all-reduces of a step take over. [s]"""
        return self._fused_s if tokens <= self._fused_tokens else 0.0

    @property
    def _hidden_count(self) -> int:
        """Two a layer, but one before experts that data-parallel engines share."""
        routed = self._model.feed_forward.routed
        shared = routed.layers if routed is not None and self._dp > 1 else 0
        return 2 * self._model.layers - shared

    def _all_reduces_of_a_step(self) -> list[_AllReduces]:
        """Two a layer over the hidden state of all tokens, and one of the embedding.

        Tokens of data-parallel engines are gathered before routed experts and scattered behind
        them, which is an all-reduce over all their devices. Norms over all heads add one a layer,
        of two fp32 values a token (vLLM's `minimax_qk_norm_fusion`).
        """
        model = self._model
        norms = model.attention_layers if model.attention.norms_all_heads else 0
        found = self._over(norms, self._tp, 2 * BYTES_PER_VALUE["fp32"])
        routed = model.feed_forward.routed
        if routed is not None and self._dp > 1:
            found += self._over(routed.layers, self._tp * self._dp, self._dp * self._of_hidden)
        return found + self._over(self._hidden_count + 1, self._tp, self._of_hidden)

    def _over(self, count: int, devices: int, token_bytes: float) -> list[_AllReduces]:
        if not count or devices == 1:
            return []
        curve = self._calibration.all_reduce_curve(devices)
        rate = curve.link_efficiency * self._profile.require("links.intra_node.bytes_per_s")
        return [_AllReduces(count, curve.latency_s, token_bytes / rate, curve.exponent)]

    def _norms_taken_over(self, fuse_allreduce_rms: bool) -> tuple[float, float]:
        """(most tokens of a step, seconds saved) if all-reduces take over the norms behind them.

        Two a layer: of attention for the norm before the feed-forward, and of that for the next.
        """
        norms = self._calibration.fused_norms
        if not fuse_allreduce_rms or norms is None or self._tp == 1:
            return 0.0, 0.0
        most = norms.up_to_bytes.get(self._tp, 0) / self._of_hidden
        return most, self._hidden_count * norms.saved_s
