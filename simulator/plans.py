"""Deployments worked out: model, device, costs and scheduler settings of what a scenario names."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ttcsim.errors import InfeasibleError, InputError, unknown_name
from ttcsim.hwprofiles.calibration import Calibration, datasheet
from ttcsim.hwprofiles.catalogue import (
    calibration_names,
    changed_fields,
    check_device,
    load_calibration,
    load_profile,
)
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.capacity import kv_blocks, memory
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.operators import GRAPH_TOKENS
from ttcsim.simulator.scenario import Deployment, EngineOptions, FrontEnd, Scenario
from ttcsim.simulator.scheduler import SchedulerConfig
from ttcsim.simulator.speculation import Drafter, make_drafter
from ttcsim.simulator.step_cost import StepCost

_GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """A deployment worked out: model, device, costs and scheduler settings of each replica."""

    name: str
    deployment: Deployment
    model: Architecture
    profile: HardwareProfile
    calibration: Calibration
    cost: StepCost
    scheduler: SchedulerConfig

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.deployment.replicas * self.devices_per_replica

    @property
    def devices_per_replica(self) -> int:
        """Devices of one replica: of its engine, or of all that share experts."""
        deployment = self.deployment
        engine = deployment.tensor_parallel * deployment.pipeline_parallel
        return engine * deployment.data_parallel

    @property
    def engines(self) -> int:
        """Engines of all replicas."""
        return self.deployment.replicas * self.deployment.data_parallel

    @property
    def kv_bytes_per_token(self) -> int:
        """KV of one token on one rank. [bytes]"""
        deployment = self.deployment
        return self.model.kv_bytes_per_token(
            deployment.tensor_parallel, pp=deployment.pipeline_parallel
        )

    @property
    def offloaded_blocks(self) -> int:
        """KV blocks that each engine can keep in host memory."""
        offered = self.deployment.engine.kv_offloading_bytes
        if offered is None:
            return 0
        ranks = self.deployment.tensor_parallel * self.deployment.pipeline_parallel
        return int(offered / (ranks * self.kv_bytes_per_token * self.scheduler.block_size))

    @property
    def usd_per_hour(self) -> float:
        """Price of all devices. [USD/h]"""
        own = self.deployment.usd_per_hour
        each = float(self.profile.price.usd_per_hour) if own is None else own
        return each * self.devices

    @property
    def time_error(self) -> str:
        """Fit errors of the curves that this deployment uses, in words."""
        routed = self.model.feed_forward.routed is not None
        return self.calibration.time_error_for(self.cost.compute_dtype, routed)

    @cached_property
    def changes(self) -> list[str]:
        """Numbers of a what-if profile that differ from those of the device it is named after."""
        return changed_fields(self.profile)

    @property
    def time_level(self) -> str:
        """How far times can be trusted: datasheet, calibrated, or borrowed from other devices."""
        if self.calibration.engine == "none":
            return "datasheet"
        if self.changes:
            return f"calibration of {self.profile.name} on changed {', '.join(self.changes)}"
        lenders = self.calibration.time_borrowed_for(
            self.cost.compute_dtype,
            self.deployment.tensor_parallel,
            self.model.feed_forward.routed is not None,
        )
        return f"borrowed ({', '.join(lenders)})" if lenders else "calibrated"

    @property
    def energy_level(self) -> str:
        """How far joules can be trusted."""
        if self.calibration.engine == "none" or self.calibration.power.borrowed_from == "datasheet":
            return "datasheet"
        if self.changes:
            return f"calibration of {self.profile.name} on changed {', '.join(self.changes)}"
        lender = self.calibration.power_borrowed_from
        return f"borrowed ({lender})" if lender else "calibrated"


def plans_of(scenario: Scenario) -> list[Plan]:
    """The deployments of a scenario, worked out; the generator first.

    Raises:
        InputError: If one cannot stand, or the strategy needs one that is missing.
    """
    needed = scenario.strategy.deployments()
    placement = scenario.scorer_placement
    if "scorer" not in needed or placement == "same_engine":
        generator = make_plan("generator", scenario.generator)
        return [generator, *_prefillers(scenario, generator)]
    if scenario.scorer is None:
        raise InputError(
            f"strategy {scenario.strategy.name} needs a scorer: give one, or set"
            " scorer_placement to same_engine"
        )
    if placement == "own_device":
        plans = [("generator", scenario.generator, 1.0), ("scorer", scenario.scorer, 1.0)]
    else:
        share = _check_colocated(scenario)
        plans = [("generator", scenario.generator, share), ("scorer", scenario.scorer, share)]
    made = [make_plan(name, deployment, share) for name, deployment, share in plans]
    return [*made, *_prefillers(scenario, made[0])]


def _prefillers(scenario: Scenario, generator: Plan) -> list[Plan]:
    """The plan of the scenario's prefiller, if it has one."""
    if scenario.prefiller is None:
        return []
    made = make_plan("prefiller", scenario.prefiller)
    for field, own, other in (
        ("model", made.model.name, generator.model.name),
        ("kv_cache_dtype", made.model.kv_dtype, generator.model.kv_dtype),
        ("engine.block_size", made.scheduler.block_size, generator.scheduler.block_size),
    ):
        if own != other:
            raise InputError(
                f"prefiller.{field}: its KV goes to the generator, so it must be {other}"
                f" (found {own})"
            )
    if generator.scheduler.num_speculative_tokens:
        raise InputError(
            "generator.engine.speculative_config: not modelled together with a prefiller"
        )
    generator.profile.require(f"links.{scenario.kv_link}.bytes_per_s")
    return [made]


def _check_colocated(scenario: Scenario) -> float:
    """Share of the usual memory that each of two engines on the same devices gets.

    Half, as in search-and-learn, unless their gpu_memory_utilization says otherwise.
    """
    own, scorer = scenario.generator, scenario.scorer
    assert scorer is not None
    for name, each in (("generator", own), ("scorer", scorer)):
        if each.pipeline_parallel > 1:
            raise InputError(f"{name}.pipeline_parallel: a pipeline cannot be shared (found"
                             f" {each.pipeline_parallel})")  # fmt: skip
    for field in ("hardware", "replicas", "tensor_parallel", "data_parallel"):
        if getattr(own, field) != getattr(scorer, field):
            raise InputError(
                f"scorer.{field}: a colocated scorer stands on the generator's devices, so it"
                f" must be {getattr(own, field)!r} (found {getattr(scorer, field)!r})"
            )
    shares = [each.engine.gpu_memory_utilization for each in (own, scorer)]
    if all("gpu_memory_utilization" not in each.engine.model_fields_set for each in (own, scorer)):
        return 0.5
    if sum(shares) > 1:
        raise InputError(
            f"scorer.engine.gpu_memory_utilization: {shares[0]:g} and {shares[1]:g} of the same"
            " memory are more than there is; they must not sum to more than 1"
        )
    return 1.0


def make_plan(name: str, deployment: Deployment, memory_share: float = 1.0) -> Plan:
    """Work out a deployment; `memory_share` is its part of devices that it shares.

    Raises:
        InputError: If a name is unknown, a number is missing or the model does not fit; says then
            what is the nearest way to share it that is possible.
    """
    try:
        return _make_plan(name, deployment, memory_share)
    except InfeasibleError as error:
        advice = _nearest_parallelism(name, deployment, memory_share)
        raise InfeasibleError(f"{error}; {advice}") from None


def _nearest_parallelism(name: str, deployment: Deployment, memory_share: float) -> str:
    """The way to share a model that is possible and nearest to the one asked for, in words."""
    most = load_profile(deployment.hardware).devices_per_node

    def near(asked: int, sizes: Iterable[int]) -> list[int]:
        return sorted(sizes, key=lambda size: (abs(math.log(size / asked)), -size))

    ways: list[dict[str, int]] = [
        {"tensor_parallel": size} for size in near(deployment.tensor_parallel, range(1, most + 1))
    ]
    stages = [each for each in (2, 4, 8, 16) if each > deployment.pipeline_parallel]
    ways += [{"tensor_parallel": most, "pipeline_parallel": each} for each in stages]
    if deployment.data_parallel > 1:
        ways += [{"data_parallel": each} for each in near(deployment.data_parallel, (1, 2, 4, 8))]
    for way in ways:
        try:
            _make_plan(name, deployment.model_copy(update=way), memory_share)
        except InputError:
            continue
        words = " and ".join(f"{field} {size}" for field, size in way.items())
        return f"the nearest that is possible is {words}"
    return (
        f"nothing up to tensor_parallel {most} is possible, alone or in a pipeline; try a narrower"
        " weight_dtype or fewer sequences (engine.max_num_seqs)"
    )


def _make_plan(name: str, deployment: Deployment, memory_share: float) -> Plan:
    profile = load_profile(deployment.hardware)
    model = load_model(deployment.model)
    if profile.kind == "cpu":
        model = model.with_dtype("fp32")  # CPUs of the catalogue have no 16-bit arithmetic
    model = model.with_dtype(deployment.weight_dtype, deployment.kv_cache_dtype)
    calibration = _calibration(deployment, profile)
    _check_stages(name, deployment, model)
    speculative = deployment.engine.speculative_config
    drafter = None if speculative is None else make_drafter(name, speculative, model)
    cost = _cost(deployment, model, profile, calibration, drafter)
    config = _scheduler(name, deployment, model, drafter, profile, memory_share)
    return Plan(name, deployment, model, profile, calibration, cost, config)


def with_calibration(plan: Plan, calibration: Calibration) -> Plan:
    """The same deployment with other times and joules; its schedule stays."""
    speculative = plan.deployment.engine.speculative_config
    drafter = None if speculative is None else make_drafter(plan.name, speculative, plan.model)
    cost = _cost(plan.deployment, plan.model, plan.profile, calibration, drafter)
    return replace(plan, calibration=calibration, cost=cost)


def _cost(
    deployment: Deployment,
    model: Architecture,
    profile: HardwareProfile,
    calibration: Calibration,
    drafter: Drafter | None,
) -> StepCost:
    engine = deployment.engine

    def cost_of(model: Architecture, drafting: StepCost | None, drafts: int) -> StepCost:
        """Of the model, or of its drafter: both run on the same devices."""
        return StepCost(
            model,
            profile,
            calibration,
            deployment.tensor_parallel,
            deployment.pipeline_parallel,
            deployment.expert_parallel,
            deployment.sampling == "truncated",
            deployment.overhead_factor,
            deployment.data_parallel,
            drafting,
            drafts,
            engine.fuse_allreduce_rms,
            _graph_tokens(engine),
        )

    speculative = engine.speculative_config
    if drafter is None or speculative is None:
        return cost_of(model, None, 0)
    drafting = cost_of(drafter.model, None, 0)
    return cost_of(model, drafting, speculative.num_speculative_tokens)


def _graph_tokens(engine: EngineOptions) -> int:
    """Most tokens of a step that runs as a CUDA graph (vLLM 0.32's `_set_cudagraph_sizes`)."""
    if engine.max_cudagraph_capture_size is not None:
        return engine.max_cudagraph_capture_size
    drafts = engine.speculative_config
    verified = 1 + drafts.num_speculative_tokens if drafts else 1
    return min(GRAPH_TOKENS, 2 * verified * (engine.max_num_seqs or GRAPH_TOKENS))


def _check_stages(name: str, deployment: Deployment, model: Architecture) -> None:
    if deployment.pipeline_parallel > model.layers:
        raise InputError(
            f"{name}.pipeline_parallel: {deployment.pipeline_parallel} stages are more than the"
            f" {model.layers} layers of {model.name}"
        )
    engine = deployment.engine
    if engine.kv_offloading_bytes is not None:
        if engine.speculative_config is not None:
            raise InputError(
                f"{name}.engine.speculative_config: not modelled together with kv_offloading_bytes"
            )
        if not engine.enable_prefix_caching:
            raise InputError(
                f"{name}.engine.kv_offloading_bytes: KV is found again by its prefix, so"
                " enable_prefix_caching must be true"
            )
    if deployment.pipeline_parallel > 1 and engine.speculative_config is not None:
        raise InputError(
            f"{name}.engine.speculative_config: drafts in a pipeline are not modelled"
            f" (found pipeline_parallel {deployment.pipeline_parallel})"
        )


def _calibration(deployment: Deployment, profile: HardwareProfile) -> Calibration:
    if deployment.calibration == "datasheet":
        return datasheet(profile)
    path = Path(deployment.hardware)
    folder = path.parent if path.is_file() else None  # a calibration may lie beside the profile
    found = load_calibration(deployment.calibration or profile.name, folder)
    if found is None and deployment.calibration is not None:
        known = ["datasheet", *calibration_names(profile.name)]
        raise unknown_name("calibration", deployment.calibration, known)
    if found is None:
        return datasheet(profile)
    check_device(found, profile)
    return found


def default_limits(profile: HardwareProfile, tensor_parallel: int = 1) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) of vLLM 0.32's API server (docs/scheduling.md)."""
    size = float(profile.memory.hbm.bytes)
    if profile.kind == "cpu":
        return 2048 * tensor_parallel, 128 * tensor_parallel
    if size >= 160 * _GIB:
        return 16384, 1024
    if size >= 70 * _GIB and "a100" not in profile.name:
        return 8192, 1024
    return 2048, 256


def _scheduler(
    name: str,
    deployment: Deployment,
    model: Architecture,
    drafter: Drafter | None,
    profile: HardwareProfile,
    memory_share: float,
) -> SchedulerConfig:
    options = deployment.engine
    tokens, seqs = default_limits(profile, deployment.tensor_parallel)
    seqs = options.max_num_seqs or seqs
    tokens = options.max_num_batched_tokens or max(tokens, seqs)
    if tokens < seqs:
        raise InputError(
            f"{name}: max_num_batched_tokens {tokens} is below max_num_seqs {seqs}; vLLM refuses it"
        )
    found = memory(
        model,
        profile,
        deployment.tensor_parallel,
        deployment.pipeline_parallel,
        options.gpu_memory_utilization * memory_share,
        options.block_size,
        tokens,
        seqs,
        deployment.data_parallel,
        drafter,
    )
    devices = deployment.tensor_parallel * deployment.pipeline_parallel * deployment.data_parallel
    where = f"{model.name} on {devices} x {profile.name}"
    blocks = kv_blocks(where, found, options.num_gpu_blocks)
    asynchronous, speculative = options.async_scheduling, options.speculative_config
    return SchedulerConfig(
        num_blocks=blocks,
        block_size=options.block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=_max_model_len(name, options, model, blocks, tokens),
        enable_prefix_caching=options.enable_prefix_caching,
        enable_chunked_prefill=options.enable_chunked_prefill,
        watermark=options.watermark,
        pipeline_parallel_size=deployment.pipeline_parallel,
        async_scheduling=profile.kind == "gpu" if asynchronous is None else asynchronous,
        num_speculative_tokens=speculative.num_speculative_tokens if speculative else 0,
        speculative_method=speculative.method if speculative else "mtp",
    )


def _max_model_len(
    name: str, options: EngineOptions, model: Architecture, blocks: int, tokens: int
) -> int:
    """Longest sequence; vLLM refuses one that alone exceeds KV or, unchunked, the token budget."""
    limits = {"KV": (blocks - 1) * options.block_size}
    if not options.enable_chunked_prefill:
        limits["a step without chunked prefill"] = tokens
    wanted = options.max_model_len
    if wanted is None:
        return max(2, min(model.max_position_embeddings, *limits.values()))
    for what, limit in limits.items():
        if wanted > limit:
            raise InputError(
                f"{name}: max_model_len {wanted} exceeds {limit}, the tokens of {what}"
            )
    return wanted


def front_end_of(scenario: Scenario, generator: Plan) -> FrontEnd:
    """Latency around the engines: the scenario's, else that of the calibration, else none."""
    if scenario.front_end is not None:
        return scenario.front_end
    found = generator.calibration.front_end
    if found is None:
        return FrontEnd()
    return FrontEnd(**found.model_dump(include=set(FrontEnd.model_fields)))
