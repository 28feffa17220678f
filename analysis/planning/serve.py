"""The `vllm serve` commands that start the deployments of a scenario."""

import json
from typing import Any, Final

from ttcsim.simulator.architecture import FULL_WIDTH_DTYPES
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.scenario import Deployment, EngineOptions, Scenario

DTYPES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""vLLM's names of dtypes."""

OPTIONS: Final = {
    "block_size": "--block-size",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "max_model_len": "--max-model-len",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "num_gpu_blocks": "--num-gpu-blocks-override",
    "max_cudagraph_capture_size": "--max-cudagraph-capture-size",
}
UNFUSED: Final = json.dumps({"pass_config": {"fuse_allreduce_rms": False}})
"""`--compilation-config` of an engine whose all-reduces leave norms alone."""

SWITCHES: Final = {
    "enable_prefix_caching": "enable-prefix-caching",
    "enable_chunked_prefill": "enable-chunked-prefill",
    "async_scheduling": "async-scheduling",
}


def serve_commands(scenario: Scenario) -> list[str]:
    """One command a deployment: it starts one replica."""
    deployments = [scenario.generator]
    own = scenario.scorer_placement != "same_engine"
    if scenario.scorer is not None and "scorer" in scenario.strategy.deployments() and own:
        deployments.append(scenario.scorer)
    return [serve_command(each) for each in deployments]


def serve_command(deployment: Deployment) -> str:
    """The command of one replica."""
    words = ["vllm serve", _name(deployment.model)]
    for flag, size in (
        ("--tensor-parallel-size", deployment.tensor_parallel),
        ("--pipeline-parallel-size", deployment.pipeline_parallel),
        ("--data-parallel-size", deployment.data_parallel),
    ):
        if size > 1:
            words.append(f"{flag} {size}")
    if deployment.expert_parallel:
        words.append("--enable-expert-parallel")
    words += _dtypes(deployment)
    words += _engine(deployment.engine)
    return " ".join(words)


def _name(given: str) -> str:
    """The model as asked for, with its organisation if it was left out."""
    known = load_model(given).name
    if "/" in given or "/" not in known:
        return given
    return f"{known.rpartition('/')[0]}/{given}"


def _dtypes(deployment: Deployment) -> list[str]:
    """Flags of dtypes that the model does not have by itself."""
    found = []
    weights, kv = deployment.weight_dtype, deployment.kv_cache_dtype
    if weights is not None and weights != load_model(deployment.model).weight_dtype:
        if weights in FULL_WIDTH_DTYPES:
            found.append(f"--dtype {DTYPES[weights]}")
        elif weights == "fp8":
            found.append("--quantization fp8")
        else:
            found.append(f"# with a checkpoint in {weights}")
    if kv is not None:
        found.insert(0, f"--kv-cache-dtype {DTYPES.get(kv, kv)}")
    return found


def _engine(engine: EngineOptions) -> list[str]:
    """Flags of engine settings that are not vLLM's defaults."""
    defaults = EngineOptions()
    words = []
    for name, flag in OPTIONS.items():
        value: Any = getattr(engine, name)
        if value is not None and value != getattr(defaults, name):
            words.append(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}")
    for name, flag in SWITCHES.items():
        value = getattr(engine, name)
        if value is not None and value != getattr(defaults, name):
            words.append(f"--{flag}" if value else f"--no-{flag}")
    if not engine.fuse_allreduce_rms:
        words.append(f"--compilation-config '{UNFUSED}'")
    if engine.speculative_config is not None:
        config = engine.speculative_config.model_dump(
            exclude={"acceptance_rate"}, exclude_none=True
        )
        words.append(f"--speculative-config '{json.dumps(config)}'")
    return words
