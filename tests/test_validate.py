"""Validation compares like with like, and gives no verdict without a valid campaign."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttcsim.analysis.measure.campaign import make_campaign
from ttcsim.analysis.measure.noise import noise, variation
from ttcsim.analysis.measure.run_files import MeasuredCampaign, MeasuredRun
from ttcsim.analysis.validate.report import PairReport, Ranking, Spread
from ttcsim.analysis.validate.text import report_text
from ttcsim.analysis.validate.validate import validate
from ttcsim.errors import InputError
from ttcsim.simulator.results import Table
from ttcsim.simulator.simulate import simulate

SERVED = {"model": "tiny-40m", "hardware": "cpu_2core",
          "engine": {"block_size": 32, "num_gpu_blocks": 60, "max_num_seqs": 16,
                     "max_num_batched_tokens": 512, "max_model_len": 1024}}  # fmt: skip
SPEC = {"questions": 20, "samples": 8, "prompt_tokens": 80, "output_tokens": 30,
        "max_output_tokens": 60}  # fmt: skip


def plan(**rules: Any) -> Any:
    workloads = [
        {"name": name, "load": load,
         "scenario": {"strategy": strategy, "arrivals": {"kind": "closed_loop", "concurrency": k}}}
        for name, strategy, load, k in (
            ("majority", "majority_vote:n=4", "alone", 1),
            ("finish", "first_finish:n=4", "alone", 1),
            ("majority3", "majority_vote:n=4", "busy", 3),
        )
    ]  # fmt: skip
    return make_campaign(
        "test",
        {"name": "made", "rules": {"repeats": 5, "min_run_s": 0, "max_noise": 0.05, **rules},
         "base": {"generator": SERVED, "trace": SPEC, "questions": 8}, "workloads": workloads},
    )  # fmt: skip


def made(factors: dict[str, list[float]], **rules: Any) -> MeasuredCampaign:
    """A campaign whose runs are simulated ones, slower by these factors."""
    campaign = plan(**rules)
    runs = []
    for workload in campaign.workloads:
        result = simulate(workload.scenario)
        for factor in factors.get(workload.name, [1.0, 1.01, 0.99, 1.005, 0.995]):
            runs.append(_slower(workload, result, factor, len(runs) + 1))
    server = {"vllm": "made", "model": "tiny-40m", "settings": None}
    return MeasuredCampaign(Path("made"), campaign, server, {"processor": "none"}, tuple(runs))


def _slower(workload: Any, result: Any, factor: float, number: int) -> MeasuredRun:
    def scaled(table: Table) -> Table:
        return Table({
            name: [None if v is None else v * factor for v in values] if name.endswith("_s")
            else list(values) for name, values in table.columns.items()
        })  # fmt: skip

    wall_s = factor * max(result.questions.columns["end_s"])
    return MeasuredRun(
        Path("made"), workload, number, None, wall_s, 0.0, scaled(result.questions),
        scaled(result.calls), {"schedule": None},
    )  # fmt: skip


def test_what_is_predicted_exactly_has_no_error() -> None:
    report = validate(made({}))
    assert report.invalid is None
    for each in report.workloads:
        assert each.verdict == "agrees"
        assert each.worst == pytest.approx(0, abs=1e-9)
        assert each.questions == Spread(*[pytest.approx(0)] * 4, 8)
    assert report.makespans.right == report.makespans.decided == 1


def test_errors_are_signed_and_against_the_median_run() -> None:
    report = validate(made({"finish": [1.25, 1.24, 1.26, 1.25, 1.3]}))
    (found,) = [each for each in report.workloads if each.name == "finish"]
    assert found.error("makespan_s") == pytest.approx(-0.2)
    assert found.error("output_tokens_per_s") == pytest.approx(0.25)
    assert found.verdict == "differs"
    assert report.worst_error == pytest.approx(0.25)
    assert report.signed_mean == pytest.approx(-0.2 / 3)


@pytest.mark.parametrize(
    ("factors", "rules", "why"),
    [
        ([1.0, 1.01], {}, "2 accepted runs of 5"),
        ([1.0, 1.2, 0.8, 1.1, 0.9], {}, "runs vary by"),
        ([1.0, 1.06, 0.94, 1.05, 0.95], {"max_noise": 0.01}, "noise"),
        ([1.0] * 5, {"min_run_s": 1e6}, "shorter than"),
    ],
)
def test_an_invalid_campaign_gets_no_verdict(
    factors: list[float], rules: dict[str, float], why: str
) -> None:
    report = validate(made({"finish": factors}, **rules))
    (found,) = [each for each in report.workloads if each.name == "finish"]
    assert found.verdict.startswith("no verdict")
    assert why in found.verdict
    assert report.invalid is not None
    assert "NO VERDICT" in report_text(report)


def test_rejected_runs_do_not_count() -> None:
    campaign = made({"finish": [1.0, 1.01, 0.99, 1.005, 0.995, 3.0]})
    runs = [replace(r, rejected="disturbed") if r.wall_s > 2.5 * campaign.runs[5].wall_s
            and r.workload.name == "finish" else r for r in campaign.runs]  # fmt: skip
    report = validate(replace(campaign, runs=tuple(runs)))
    (found,) = [each for each in report.workloads if each.name == "finish"]
    assert (found.accepted, found.rejected) == (5, 1)
    assert found.verdict == "agrees"


def test_a_workload_without_accepted_runs_is_named() -> None:
    campaign = made({})
    runs = [replace(r, rejected="x") if r.workload.name == "finish" else r for r in campaign.runs]
    assert "finish" in str(validate(replace(campaign, runs=tuple(runs))).invalid)
    with pytest.raises(InputError, match="holds no accepted run"):
        validate(replace(campaign, runs=tuple(replace(r, rejected="x") for r in campaign.runs)))


def test_the_datasheet_alone_is_a_bound() -> None:
    report = validate(made({}), "datasheet")
    assert all(each.error("makespan_s") < -0.3 for each in report.workloads)


def test_a_calibration_of_another_device_is_refused() -> None:
    with pytest.raises(InputError, match="h100_sxm"):
        validate(made({}), "h100_sxm")


def test_the_report_is_plain_data() -> None:
    plain = validate(made({})).to_dict()
    assert json.loads(json.dumps(plain))["summary"]["agree"] == 3
    assert plain["workloads"][0]["errors"].keys() >= {"makespan_s", "output_tokens_per_s"}


def test_noise_by_hand() -> None:
    assert variation([9, 10, 11]) == pytest.approx(0.1)
    # sqrt((1.25 * 0.1)^2 / 3 + (1.25 * 0.1)^2 / 3)
    assert noise([9, 10, 11], [9, 10, 11]) == pytest.approx(0.10206, abs=1e-5)
    assert noise([9, 10, 11], []) == pytest.approx(0.07217, abs=1e-5)
    assert noise([10], []) == float("inf")


def test_rankings_count_only_what_the_noise_lets_decide() -> None:
    pairs = (
        PairReport("alone", "a", "b", measured=1.5, predicted=1.4, noise=0.1),
        PairReport("alone", "a", "c", measured=1.05, predicted=0.95, noise=0.1),
        PairReport("alone", "b", "c", measured=0.7, predicted=1.1, noise=0.1),
    )
    ranking = Ranking(pairs)
    assert (ranking.decided, ranking.right, ranking.within) == (2, 1, 2)


def test_noise_alone_puts_some_ratios_beyond_their_limit() -> None:
    def pair(noise: float) -> PairReport:
        return PairReport("alone", "a", "b", measured=1.5, predicted=1.5, noise=noise)

    assert pair(0.0).chance == 1.0
    assert pair(0.1).chance == pytest.approx(0.9545, abs=1e-4)  # 2 sigma
    assert pair(0.02).chance == pytest.approx(0.9545, abs=1e-4)  # 4 % are 2 sigma, too
    assert pair(0.01).chance == pytest.approx(0.99994, abs=1e-5)  # 4 sigma
    assert pair(float("inf")).chance == 0.0
    assert Ranking((pair(0.1), pair(0.0))).expected_within == pytest.approx(1.9545, abs=1e-4)
