"""What a lone question takes at least, and what it takes if nothing overlaps.

At least: all its bytes at nominal bandwidth or all its FLOPs at the nominal peak, whichever takes
longer. Without overlap a step is linear in tokens and context, so the engine's steps take as long
as so many steps of their mean composition; but for steps that the host holds up, in both. What
decoders beside a prompt take more (`mixed_attention`) is left out.
"""

import math

from ttcsim.analysis.estimate.lone_engine import Work
from ttcsim.analysis.estimate.traffic import bytes_of, flops_of
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.simulator.plans import Plan, with_calibration
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import seconds


def speed_of_light_s(plan: Plan, work: Work) -> float:
    """Seconds below which no engine on these devices can do the work. [s]"""
    devices = plan.deployment.tensor_parallel
    bandwidth = plan.profile.require("memory.hbm.bytes_per_s")
    memory_s = bytes_of(plan, work) / (devices * bandwidth)
    peak = plan.profile.peak(plan.cost.compute_dtype)
    return max(memory_s, flops_of(plan, work) / (devices * peak))


def without_overlap(plan: Plan) -> Plan:
    """The deployment with fitted efficiencies, where memory and arithmetic wait for each other."""
    own = plan.calibration
    changed = {
        "gemm": {
            dtype: curve.model_copy(update={"exponent": 1.0}) for dtype, curve in own.gemm.items()
        },
        "gemm_table": None,
        "all_reduce": {
            size: curve.model_copy(update={"exponent": 1.0})
            for size, curve in own.all_reduce.items()
        },
        "moe": own.moe and own.moe.model_copy(update={"exponent": 1.0}),
        "moe_table": None,
    }
    calibration: Calibration = own.model_copy(update=changed)
    return with_calibration(plan, calibration)


def mean_steps_s(plan: Plan, work: Work) -> float:
    """Seconds that the steps of some work take at their mean composition. [s]"""
    prefill_s = _prefill_s(plan, work)
    if not work.decoded:
        return prefill_s
    steps = max(1, work.steps - work.prefill_steps)
    decoders = work.decoded / steps
    context = round(work.read / steps)
    low, share = math.floor(decoders), decoders - math.floor(decoders)
    step_s = 0.0
    for whole, part in ((low, 1 - share), (low + 1, share)):
        if part and whole:
            step_s += part * seconds(plan.cost.row(whole, context=context).duration_at(context))
    return prefill_s + steps * step_s


def _prefill_s(plan: Plan, work: Work) -> float:
    if not work.prefills:
        return 0.0
    tokens = max(1, round(work.prefilled / work.prefills))
    prior = max(0, round(work.pairs / work.prefilled - tokens / 2))
    per_step = min(tokens, plan.scheduler.max_num_batched_tokens)
    together = max(1, round(work.prefills / max(1, work.prefill_steps)))
    row = plan.cost.row(0, 0, [Prefill(per_step, prior, True)] * together)
    return work.prefill_steps * seconds(row.duration)
