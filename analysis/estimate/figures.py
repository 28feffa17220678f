"""The figures of an estimate, and the formula of each."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from ttcsim.analysis.plain import finite

if TYPE_CHECKING:
    import pandas as pd

FORMULAS: Final = {
    "calls": "calls of the strategy",
    "output_tokens": "output tokens",
    "prompt_tokens": "prompt tokens computed",
    "flops": "FLOPs",
    "hbm_bytes": "bytes moved",
    "eflops": "Kinetics eFLOPs",
    "kv_peak_bytes": "KV footprint",
    "makespan_lower_s": "speed of light",
    "makespan_s": "lone question",
    "makespan_p50_s": "lone question",
    "makespan_p95_s": "lone question",
    "makespan_upper_s": "no overlap",
    "alone_energy_j": "lone question",
    "alone_cost_usd": "price x makespan",
    "saturated_questions_per_s": "full batch",
    "saturated_batch": "full batch",
    "saturated_energy_j": "full batch",
    "saturated_cost_usd": "price / rate",
    "balanced_energy_j": "full batch",
    "balanced_cost_usd": "price / rate",
}
"""Name of the formula of each figure; docs/estimate.md has the formulas."""


@dataclass(frozen=True)
class Estimate:
    """What a strategy costs a question, on average.

    Attributes:
        strategy: Its name and parameters.
        calls: Calls to engines.
        output_tokens: Tokens written, those of cancelled calls included. [tokens]
        prompt_tokens: Prompt tokens computed, not found cached. [tokens]
        flops: Of the generator's and the scorer's devices. [FLOP]
        hbm_bytes: Weights and KV read, all devices. [B]
        eflops: Cost law of Kinetics, for the generator's samples on one prompt. [FLOP]
        kv_peak_bytes: Most KV of a lone question, all devices of the generator. [B]
        makespan_lower_s: Bound: nothing but the datasheet. [s]
        makespan_s: With the engines to itself. [s]
        makespan_p50_s, makespan_p95_s: Percentiles over questions, each with the engines to itself.
            [s]
        makespan_upper_s: With memory and arithmetic one after the other. [s]
        alone_energy_j: Joules of a question that has the engines to itself, idle devices included.
        alone_cost_usd: Price of all devices for that long. [USD]
        saturated_questions_per_s: Most questions per second of all replicas. [1/s]
        generator_rate, scorer_rate: Most questions per second of either alone; infinity if the
            question does not need it. [1/s]
        saturated_batch: Sequences that each engine then decodes.
        limited_by: What limits the rate.
        saturated_energy_j: Joules a question at that rate. [J]
        saturated_cost_usd: Price a question at that rate. [USD]
        balanced_energy_j, balanced_cost_usd: The same with as many replicas of each deployment as
            keep all of them busy; the least that many replicas can come to. [J], [USD]
    """

    strategy: str
    calls: float
    output_tokens: float
    prompt_tokens: float
    flops: float
    hbm_bytes: float
    eflops: float
    kv_peak_bytes: float
    makespan_lower_s: float
    makespan_s: float
    makespan_p50_s: float
    makespan_p95_s: float
    makespan_upper_s: float
    alone_energy_j: float
    alone_cost_usd: float
    saturated_questions_per_s: float
    generator_rate: float
    scorer_rate: float
    saturated_batch: float
    limited_by: str
    saturated_energy_j: float
    saturated_cost_usd: float
    balanced_energy_j: float
    balanced_cost_usd: float


@dataclass(frozen=True)
class Estimates:
    """Estimates of several strategies on one scenario.

    Attributes:
        rows: One a strategy.
        scene: What serves and what is asked, in words.
        questions: How many questions were asked for it.
        time_level, energy_level: How far times and joules can be trusted.
    """

    rows: tuple[Estimate, ...]
    scene: str
    questions: int
    time_level: str
    energy_level: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "estimate",
            "scene": self.scene,
            "questions": self.questions,
            "time_level": self.time_level,
            "energy_level": self.energy_level,
            "formulas": FORMULAS,
            "rows": [finite(asdict(row)) for row in self.rows],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row a strategy, one column a figure."""
        import pandas as pd

        names = [each.name for each in fields(Estimate)]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=names)
