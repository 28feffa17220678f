"""How InferenceX launched vLLM: what its scripts set that changes times.

From benchmarks/ of github SemiAnalysisAI/InferenceX (facts; the commit stands beside each). What a
script does not set is vLLM's default. Only the scripts tell: rows state none of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ttcsim.analysis.published.rows import PublishedRow


@dataclass(frozen=True)
class Launch:
    """Flags of a server.

    `kv_cache_dtype` is None where KV has the dtype of the activations. `splits_experts` says that
    `--enable-expert-parallel` was set whatever a row states, `fuses_all_reduces` that all-reduces
    were fused with the norms behind them: by a flag, or by vLLM's default from 0.17 on.
    `budget` is `--max-num-batched-tokens`, `budget_in_prompts` the same as a multiple of the
    prompt's nominal length, `graph_tokens` is `--max-cudagraph-capture-size`. Left out are
    `--max-num-seqs`, no less than the concurrency of any row, and what is not modelled: thresholds
    of fusion, the mode of graphs, stream intervals, kernels that an environment variable chose.
    """

    kv_cache_dtype: str | None = None
    splits_experts: bool = False
    fuses_all_reduces: bool = False
    budget: int | None = None
    budget_in_prompts: int | None = None
    graph_tokens: int | None = None


_ANY: Final = ("",)


@dataclass(frozen=True)
class _Script:
    """Rows of a script: a part of the model's name, devices, beginnings of dtype and version."""

    model: str
    devices: Sequence[str]
    launch: Launch
    dtypes: Sequence[str] = _ANY
    versions: Sequence[str] = _ANY


_FUSED: Final = Launch(fuses_all_reduces=True)
_FP8_FUSED: Final = Launch("fp8", fuses_all_reduces=True)
_TUNED: Final = Launch("fp8", fuses_all_reduces=True, budget_in_prompts=2, graph_tokens=2048)
_SPLIT: Final = Launch(splits_experts=True)
_SPLIT_FUSED: Final = Launch(splits_experts=True, fuses_all_reduces=True)
_GRAPHS: Final = Launch(budget=8192, graph_tokens=2048)
_GRAPHS_FUSED: Final = Launch(fuses_all_reduces=True, budget=8192, graph_tokens=2048)
_FP8_GRAPHS_FUSED: Final = Launch("fp8", fuses_all_reduces=True, budget=8192, graph_tokens=2048)

_SCRIPTS: Final[Sequence[_Script]] = (
    # 70b_fp8_b200_docker.sh, 70b_fp4_b200_docker.sh @bb4c7f9: enable_fi_allreduce_fusion
    _Script("llama-3.1-70b", ["B200"], Launch("fp8", fuses_all_reduces=True, budget=8192)),
    # 70b_fp8_h100_slurm.sh @2a205bb, 70b_fp8_h200_slurm.sh @409e9a4
    _Script("llama-3.1-70b", ["H100", "H200"], Launch("fp8", budget=8192)),
    # gptoss_fp4_b200.sh @1fc5d73
    _Script("gpt-oss", ["B200"], _FP8_GRAPHS_FUSED),
    # gptoss_fp4_h100.sh @1fc5d73, gptoss_fp4_h200.sh @16cd955
    _Script("gpt-oss", ["H100", "H200"], _GRAPHS_FUSED, versions=["0.18"]),
    _Script("gpt-oss", ["H100", "H200"], _GRAPHS),
    # minimaxm2.5_fp8_h200.sh (whn09/InferenceX@53605e0): EP_SIZE -ge 1
    _Script("minimax-m2.5", ["H200"], _SPLIT, ["fp8"], ["0.16"]),
    _Script("minimax-m2.5", ["H200"], _SPLIT_FUSED, ["fp8"]),
    # minimaxm2.5_fp8_h100.sh (whn09/InferenceX@53605e0): EP_SIZE -gt 1
    _Script("minimax-m2.5", ["H100"], _FUSED, ["fp8"]),
    # minimaxm2.5_fp8_b200.sh @07e171a, later whn09/InferenceX@43ae41b; B300 took the same
    _Script("minimax-m2.5", ["B200"], _SPLIT_FUSED, ["fp8"], ["0.17"]),
    _Script("minimax-m2.5", ["B200", "B300"], _TUNED, ["fp8"]),
    # minimaxm2.5_fp4_b200.sh @56245be, later lishuoshuo-amd/InferenceX@f2931b4; the checkpoint asks
    # for KV in fp8
    _Script("minimax-m2.5", ["B200"], _FP8_FUSED, ["fp4"], ["nightly"]),
    _Script("minimax-m2.5", ["B200", "B300"], _TUNED, ["fp4"]),
    # kimik2.5_fp4_b200.sh @04107b3; the checkpoint asks for KV in fp8
    _Script("kimi-k2.5", ["B200", "B300"], _FP8_FUSED, ["fp4"]),
    # kimik2.5_int4_b200.sh @2b7b694, kimik2.5_int4_h200.sh @34bc7c4: fuse_allreduce_rms is set
    _Script("kimi-k2.5", ["B200", "H200"], _FUSED, ["int4"]),
)


def launch_of(row: PublishedRow) -> Launch | None:
    """Flags of the script that measured a row; None if no script is known."""
    for script in _SCRIPTS:
        if (
            script.model in row.model.lower()
            and row.gpu.upper() in script.devices
            and any(row.precision.startswith(each) for each in script.dtypes)
            and any(row.engine_version.startswith(each) for each in script.versions)
        ):
            return script.launch
    return None
