"""Measurements by others become measured runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from ttcsim.analysis.measure.foreign import load_measured
from ttcsim.analysis.validate.validate import validate
from ttcsim.errors import InputError

SERVED = {"generator": {"model": "Llama-3.1-8B", "hardware": "h100_sxm"}}
SERVINGSIM = Path(__file__).parent.parent / "analysis" / "evidence" / "llmservingsim"


def bench(**changes: Any) -> dict[str, Any]:
    """A result of three requests, the second of which has failed."""
    return {
        "date": "20260101-000000", "model_id": "Llama-3.1-8B", "tokenizer_id": "t",
        "num_prompts": 3, "request_rate": "inf", "duration": 2.0, "completed": 2, "failed": 1,
        "input_lens": [100, 100, 200], "output_lens": [3, 0, 2], "ttfts": [0.05, 0.0, 0.07],
        "itls": [[0.01, 0.02], [], [0.03]], "start_times": [5.0, 5.1, 5.5],
        "errors": ["", "timeout", ""], **changes,
    }  # fmt: skip


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "bench.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_bench_result_is_one_run_without_its_failures(tmp_path: Path) -> None:
    (measured,) = load_measured(written(tmp_path, bench()), SERVED)
    calls = measured.runs[0].calls.rows()
    assert [call["question_id"] for call in calls] == ["0", "2"]
    assert [call["sent_s"] for call in calls] == pytest.approx([0.0, 0.5])
    assert [call["first_token_s"] for call in calls] == pytest.approx([0.05, 0.57])
    assert [call["end_s"] for call in calls] == pytest.approx([0.08, 0.60])


def test_a_bench_result_is_validated_without_a_verdict(tmp_path: Path) -> None:
    (measured,) = load_measured(written(tmp_path, bench()), SERVED)
    report = validate(measured)
    (workload,) = report.workloads
    assert report.invalid is None
    assert workload.verdict == "no verdict: not repeated, so its noise is not known"
    assert workload.measured["ttft_ms"] == pytest.approx(60)
    assert workload.measured["tpot_ms"] == pytest.approx((15 + 30) / 2)
    assert workload.measured["output_tokens_per_s"] == pytest.approx(5 / 0.6)
    assert 0 < workload.predicted["tpot_ms"] < 30


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (bench(ttfts=[0.1]), "ttfts: as many entries as start_times"),
        (bench(duration=-1), "duration"),
        ({"num_prompts": 3}, "--save-detailed"),
    ],
)
def test_a_bad_bench_result_is_named(tmp_path: Path, document: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_measured(written(tmp_path, document), SERVED)


def test_a_bench_result_does_not_say_on_what_hardware(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --hardware"):
        load_measured(written(tmp_path, bench()))


def test_servingsim_runs_say_what_served_and_which_prefixes_are_shared() -> None:
    llama, qwen = load_measured(SERVINGSIM)
    scenario = qwen.campaign.workloads[0].scenario
    assert (scenario.generator.hardware, scenario.generator.tensor_parallel) == (
        "rtx_pro_6000_server", 2,
    )  # fmt: skip
    assert scenario.generator.engine.max_num_batched_tokens == 2048
    assert llama.trace is not None
    assert len(llama.trace.questions) == 300
    asked = llama.trace.questions
    whole = sum(16 * (question.prompt_tokens // 16) for question in asked)
    seen: set[str] = set()
    shared = 0
    for question in asked:
        shared += sum(16 for segment in question.prefix if segment.id in seen)
        seen |= {segment.id for segment in question.prefix}
    # 7.6 % of all prompt tokens lie in full blocks that an earlier prompt has, too.
    assert shared / whole == pytest.approx(0.076, abs=0.002)


def test_servingsim_runs_of_several_engines(tmp_path: Path) -> None:
    for path in SERVINGSIM.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    meta = json.loads((tmp_path / "runs_meta.json").read_text(encoding="utf-8"))
    run = meta["RTXPRO6000/Qwen3-32B"]
    run["model"] = "Qwen/Qwen3-30B-A3B-Instruct-2507"
    run["engine_kwargs"] |= {
        "tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": True,
    }  # fmt: skip
    (tmp_path / "runs_meta.json").write_text(json.dumps(meta), encoding="utf-8")
    _, two = load_measured(tmp_path)
    generator = two.campaign.workloads[0].scenario.generator
    assert (generator.tensor_parallel, generator.data_parallel) == (1, 2)
    assert generator.expert_parallel
    [report] = validate(two).workloads
    assert report.predicted["tpot_ms"] > 0


def test_servingsim_times_are_those_of_the_file() -> None:
    llama, _ = load_measured(SERVINGSIM)
    report = validate(llama)
    assert report.workloads[0].measured["ttft_ms"] > 20
    assert report.to_dict()["workloads"][0]["verdict"].startswith("no verdict")


def test_servingsim_runs_are_predicted_within_three_per_cent() -> None:
    """Time to the first token, most of it in the queue, within ten."""
    llama, qwen = load_measured(SERVINGSIM)
    for campaign in (llama, qwen):
        [run] = validate(campaign).workloads
        error = {name: run.predicted[name] / value - 1 for name, value in run.measured.items()}
        assert abs(error["tpot_ms"]) < 0.03
        assert abs(error["e2el_ms"]) < 0.03
        assert abs(error["ttft_ms"]) < 0.10


def test_a_run_without_meta_is_named(tmp_path: Path) -> None:
    lines = (SERVINGSIM / "requests.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "requests.csv").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    (tmp_path / "runs_meta.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="unknown run"):
        load_measured(tmp_path)
    (tmp_path / "requests.csv").write_text("\n".join([lines[0], "x"]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"requests\.csv:2: not a number"):
        load_measured(tmp_path)
