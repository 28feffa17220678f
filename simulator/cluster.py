"""Deployments as running things: engines behind a router, and the devices they stand on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ttcsim.errors import InputError, unknown_name
from ttcsim.hwprofiles.calibration import Calibration, datasheet
from ttcsim.hwprofiles.catalogue import (
    changed_fields,
    check_device,
    load_calibration,
    load_profile,
)
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.agenda import Agenda
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.capacity import kv_blocks, memory
from ttcsim.simulator.device import Device
from ttcsim.simulator.engine import Engine
from ttcsim.simulator.lockstep import LockstepScheduler, decodes_in_lockstep
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.request import Request
from ttcsim.simulator.scenario import Deployment, EngineOptions
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
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
        return self.deployment.replicas * self.deployment.tensor_parallel

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


def make_plan(name: str, deployment: Deployment, memory_share: float = 1.0) -> Plan:
    """Work out a deployment; `memory_share` is its part of devices that it shares.

    Raises:
        InputError: If a name is unknown, a number is missing or the model does not fit.
    """
    profile = load_profile(deployment.hardware)
    model = load_model(deployment.model)
    if profile.kind == "cpu":
        model = model.with_dtype("fp32")  # CPUs of the catalogue have no 16-bit arithmetic
    model = model.with_dtype(deployment.weight_dtype, deployment.kv_cache_dtype)
    calibration = _calibration(deployment, profile)
    cost = StepCost(model, profile, calibration, deployment.tensor_parallel)
    config = _scheduler(name, deployment, model, profile, memory_share)
    return Plan(name, deployment, model, profile, calibration, cost, config)


def _calibration(deployment: Deployment, profile: HardwareProfile) -> Calibration:
    if deployment.calibration == "datasheet":
        return datasheet(profile)
    path = Path(deployment.hardware)
    folder = path.parent if path.is_file() else None  # a calibration may lie beside the profile
    found = load_calibration(deployment.calibration or profile.name, folder)
    if found is None and deployment.calibration is not None:
        raise unknown_name("calibration", deployment.calibration, ["datasheet", profile.name])
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
        options.gpu_memory_utilization * memory_share,
        options.block_size,
        tokens,
        seqs,
    )
    where = f"{model.name} on {deployment.tensor_parallel} x {profile.name}"
    blocks = kv_blocks(where, found, options.num_gpu_blocks)
    asynchronous = options.async_scheduling
    return SchedulerConfig(
        num_blocks=blocks,
        block_size=options.block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=_max_model_len(name, options, model, blocks, tokens),
        enable_prefix_caching=options.enable_prefix_caching,
        enable_chunked_prefill=options.enable_chunked_prefill,
        watermark=options.watermark,
        async_scheduling=profile.kind == "gpu" if asynchronous is None else asynchronous,
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


class Cluster:
    """The replicas of one deployment behind a router."""

    def __init__(self, plan: Plan, engines: list[Engine]) -> None:
        self.plan = plan
        self.engines = engines
        self._turn = 0
        self._homes: dict[str, Engine] = {}

    def route(self, question_id: str) -> Engine:
        """The engine that gets the next call of a question."""
        engines, rule = self.engines, self.plan.deployment.router
        if len(engines) == 1:
            return engines[0]
        if rule == "question" and question_id in self._homes:
            return self._homes[question_id]
        if rule == "round_robin":
            chosen = engines[self._turn % len(engines)]
        else:  # ties go round, as with vLLM's router
            order = range(self._turn, self._turn + len(engines))
            chosen = min((engines[i % len(engines)] for i in order), key=lambda e: e.load)
        self._turn += 1
        self._homes[question_id] = chosen
        return chosen


def make_clusters(
    agenda: Agenda,
    plans: list[Plan],
    colocated: bool,
    on_first_token: Callable[[Request], None],
    on_end: Callable[[Request], None],
) -> tuple[dict[str, Cluster], list[Device]]:
    """Build all engines; colocated deployments take turns on the devices of the first."""
    clusters: dict[str, Cluster] = {}
    devices: list[Device] = []
    index = 0
    for plan in plans:
        if not devices or not colocated:
            own = [Device(plan.cost.idle_w) for _ in range(plan.deployment.replicas)]
            devices += own
        engines = []
        for replica, device in enumerate(own):
            scheduler = _make(plan)
            engines.append(
                Engine(agenda, scheduler, plan.cost, device, index, replica, on_first_token, on_end)
            )
            index += 1
        clusters[plan.name] = Cluster(plan, engines)
    return clusters, devices


def _make(plan: Plan) -> Scheduler:
    step_by_step = plan.deployment.engine.step_by_step
    if step_by_step or not decodes_in_lockstep(plan.scheduler):
        return Scheduler(plan.scheduler)
    return LockstepScheduler(plan.scheduler)
