"""What served a published row, in this project's names: device, model, dtype, parallelism."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ttcsim.analysis.published.launches import Launch, launch_of
from ttcsim.analysis.published.rows import SATURATED, PublishedRow
from ttcsim.errors import InputError, unknown_name
from ttcsim.hwprofiles.catalogue import profile_names
from ttcsim.simulator.model_catalogue import load_model

DEVICES: Final[Mapping[str, str]] = {
    "A100": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "L40S": "l40s",
    "RTX4090": "rtx_4090",
    "RTXPRO6000": "rtx_pro_6000_server",
}
"""Hardware profile by the word that sources use; they mean the SXM variants."""

DTYPES: Final[Mapping[str, str]] = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "fp8": "fp8",
    "int8": "int8",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "fp4",
    "int4": "int4",
}

TOKENISING_S_PER_TOKEN: Final = 3.8e-6
"""What vLLM 0.32 takes from a prompt of text to the engine's input for a token of it, one prompt at
a time: random tokens, one core of an Intel Xeon (benchmarks/prompt_ingest.py: 3.7 and 3.9)."""


@dataclass(frozen=True)
class Harness:
    """What a measuring set-up adds: engine around the kernels, server and client, its requests.

    `overhead_factor` and `front_end_s` are chosen on rows of the set-up. Lengths of closed loops
    are uniform between two multiples of the nominal ones.
    """

    overhead_factor: float
    front_end_s: float
    prompt_range: tuple[float, float] = (1.0, 1.0)
    output_range: tuple[float, float] = (1.0, 1.0)


CHATS: Final = Harness(1.0, 0.0)
"""ML.ENERGY: the overheads of the bundled calibrations come from there."""

IN_HOUSE: Final = Harness(1.0, 0.022, output_range=(0.5, 1.5))
"""Sweeps of NVIDIA, which state nominal lengths only; vLLM 0.12. Outputs of one length
would keep all clients in step, and ttft then grow as outputs get shorter, which it does not."""

PUBLIC: Final = Harness(0.7, 0.016, prompt_range=(0.8, 1.0), output_range=(0.8, 1.0))
"""InferenceX (SemiAnalysis), vLLM 0.15 to 0.19, with the flags of its scripts (launches.py).
Lengths by its RANDOM_RANGE_RATIO (SemiAnalysisAI/InferenceX@843c625)."""

FIRST_PUBLIC: Final = Harness(0.6, 0.014, prompt_range=(0.8, 1.0), output_range=(0.8, 1.0))
"""The same in its first months (2025), whose rows do not state a version of the engine."""

LISTED_AGAIN: Final = "gap_analysis"
"""Part of the source of rows that have a measurement of InferenceX once more, to three digits."""

FLAG_WORKS_FROM: Final = "2026-04-08"
"""First day on which InferenceX's flag for data-parallel attention shows in times. Before, rows
with it take as long as those with the same tp and ep without it: tpot of 17 pairs of MiniMax-M2.5
on H100 and B200 is the same to 1 %, and those of Kimi-K2.5 are listed once more without it."""


def harness_of(row: PublishedRow) -> Harness:
    """The set-up that measured a row, told by its load, by how it states lengths and its engine."""
    if row.load == SATURATED:
        return CHATS
    if row.length_rule.startswith("nominal") and LISTED_AGAIN not in row.source:
        return IN_HOUSE
    return PUBLIC if row.engine_version else FIRST_PUBLIC


def deployment_of(row: PublishedRow) -> dict[str, Any]:
    """Fields of the deployment of a row.

    Chats are sampled as the models' vendors advise, by top-k and top-p; random prompts greedily.

    Raises:
        InputError: If the row needs something that is not modelled, or a name is unknown.
    """
    name = DEVICES.get(row.gpu.replace(" ", "").upper(), row.gpu)
    if name not in profile_names():
        raise InputError(f"no hardware profile for {row.gpu}")
    own = load_model(row.model)
    wanted = _dtype(row.precision)
    if own.weight_dtype == "fp4" and wanted == "nvfp4":
        wanted = "fp4"  # "fp4" of a model that was published in MXFP4
    harness = harness_of(row)
    launch = (launch_of(row) if harness in (PUBLIC, FIRST_PUBLIC) else None) or Launch()
    budget = row.max_num_batched_tokens or launch.budget
    if budget is None and launch.budget_in_prompts and row.prompt_tokens:
        budget = launch.budget_in_prompts * round(row.prompt_tokens)
    engine = {
        "max_num_seqs": row.max_num_seqs,
        "max_num_batched_tokens": budget,
        "fuse_allreduce_rms": launch.fuses_all_reduces,
        "max_cudagraph_capture_size": launch.graph_tokens,
    }
    if row.max_num_seqs and row.max_num_batched_tokens:
        # vLLM raises the budget that a source names to the batch limit.
        engine["max_num_batched_tokens"] = max(row.max_num_seqs, row.max_num_batched_tokens)
    tensor, data = _parallel(row, harness)
    return {
        "model": row.model,
        "hardware": name,
        "tensor_parallel": tensor,
        "data_parallel": data,
        "expert_parallel": row.expert_parallel > 1 or launch.splits_experts,
        "sampling": "truncated" if row.load == SATURATED else "plain",
        "overhead_factor": harness.overhead_factor,
        "kv_cache_dtype": launch.kv_cache_dtype,
        "weight_dtype": None if wanted == own.weight_dtype else wanted,
        "engine": engine,
    }


def _parallel(row: PublishedRow, harness: Harness) -> tuple[int, int]:
    """(tensor-parallel, data-parallel) size.

    InferenceX states devices as tp, and data-parallel attention as a flag, read as dp = tp.
    """
    tensor, data = max(row.devices // row.data_parallel, row.tensor_parallel), row.data_parallel
    if harness is IN_HOUSE or data != tensor:
        return tensor, data
    ignored = row.measured_date and row.measured_date < FLAG_WORKS_FROM
    return (tensor, 1) if ignored else (1, data)


def _dtype(precision: str) -> str | None:
    """Dtype of the weights; None if the row does not say, then it is the model's own."""
    plain = precision.partition("(")[0].strip().lower()
    if not plain:
        return None
    if plain not in DTYPES:
        raise unknown_name("precision", precision, DTYPES)
    return DTYPES[plain]
