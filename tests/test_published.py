"""Published measurements: the table is read with care, rows become scenarios, errors are sorted."""

import gzip
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ttcsim.analysis.published.predict import Outcome, metrics_of, predict_rows, scenario_of
from ttcsim.analysis.published.report import PublishedReport, published_text
from ttcsim.analysis.published.requests import NUM_REQUESTS, requests_of
from ttcsim.analysis.published.rows import PublishedRow, is_published, load_rows
from ttcsim.analysis.published.served import (
    CHATS,
    FIRST_PUBLIC,
    IN_HOUSE,
    PUBLIC,
    TOKENISING_S_PER_TOKEN,
    deployment_of,
    harness_of,
)
from ttcsim.errors import InputError
from ttcsim.simulator.simulate import simulate

EVIDENCE = Path(__file__).parent.parent / "analysis" / "evidence" / "published"

HEADER = (
    "row_id,gpu,n_gpu,tp,model,precision,task,load_model,max_num_seqs,concurrency,prompt_len,"
    "output_len,ttft_ms_mean,tpot_ms_mean,power_w,suspect"
)
CLOSED = "a,H100,2,2,Qwen/Qwen3-32B,bf16,,closed_fixed_concurrency,,8,1024,128,100,16,,"
CHAT = (
    "b,H100,1,1,meta-llama/Llama-3.1-8B-Instruct,bfloat16,lm-arena-chat,"
    "closed_saturated_steady_state,64,63.5,,400,,9,430,False"
)


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> list[PublishedRow]:
    return load_rows(table(tmp_path / "rows.csv", CLOSED, CHAT))


def test_reads_plain_and_gzipped_tables(tmp_path: Path, rows: list[PublishedRow]) -> None:
    closed, chat = rows
    assert (closed.tensor_parallel, closed.concurrency, closed.prompt_tokens) == (2, 8, 1024)
    assert closed.measured == {"ttft_ms": 100, "tpot_ms": 16}
    assert chat.measured == {"tpot_ms": 9, "power_w": 430}
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    assert load_rows(str(packed)) == rows
    assert is_published(packed)
    assert not is_published(tmp_path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["gpu,load_model,concurrency,output_len"], "rows.csv:1: model: column is missing"),
        ([HEADER.replace("output_len", "output_lens")], "is it 'output_lens'?"),
        ([HEADER], "holds no rows"),
        ([HEADER, CLOSED.replace(",16,", ",fast,")], "rows.csv:2: tpot_ms_mean: must be a number"),
        ([HEADER, CHAT, CLOSED.replace(",8,", ",,")], "rows.csv:3: concurrency: is missing"),
    ],
)
def test_bad_tables_say_where(lines: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        load_rows(path)


def test_a_closed_loop_sends_ten_requests_a_client(rows: list[PublishedRow]) -> None:
    asked = requests_of(rows[0]).questions
    assert len(asked) == 80
    prompts = [question.prompt_tokens for question in asked]
    assert min(prompts) >= math.floor(0.8 * 1024)
    assert max(prompts) <= 1024
    assert np.mean(prompts) == pytest.approx(0.9 * 1024, rel=0.03)


def test_nominal_lengths_are_means_of_outputs_and_exact_prompts(rows: list[PublishedRow]) -> None:
    asked = requests_of(replace(rows[0], length_rule="nominal; policy not stated")).questions
    outputs = [question.samples[0].output_tokens for question in asked]
    assert {question.prompt_tokens for question in asked} == {1024}
    assert min(outputs) < 0.6 * 128 < 1.4 * 128 < max(outputs)
    assert np.mean(outputs) == pytest.approx(128, rel=0.1)


def test_a_saturated_load_has_the_mean_of_its_row(rows: list[PublishedRow]) -> None:
    asked = requests_of(rows[1]).questions
    outputs = [question.samples[0].output_tokens for question in asked]
    assert len(outputs) == NUM_REQUESTS["lm-arena-chat"]
    assert np.mean(outputs) == pytest.approx(400, rel=0.01)
    assert np.std(outputs) / np.mean(outputs) == pytest.approx(0.98, abs=0.1)  # of its histogram


def test_an_unknown_model_takes_the_lengths_of_the_nearest(rows: list[PublishedRow]) -> None:
    asked = requests_of(replace(rows[1], model="x/y", output_tokens=620)).questions
    outputs = [question.samples[0].output_tokens for question in asked]
    assert np.mean(outputs) == pytest.approx(620, rel=0.01)


def test_what_serves_a_row(rows: list[PublishedRow]) -> None:
    closed, chat = rows
    assert deployment_of(closed)["tensor_parallel"] == 2
    assert deployment_of(closed)["weight_dtype"] is None  # bf16 is the model's own
    assert deployment_of(replace(closed, precision="fp8"))["weight_dtype"] == "fp8"
    assert deployment_of(replace(closed, gpu="b200_sxm"))["hardware"] == "b200_sxm"
    assert deployment_of(chat)["engine"]["max_num_seqs"] == 64
    data_parallel = deployment_of(replace(closed, data_parallel=2))
    assert (data_parallel["tensor_parallel"], data_parallel["data_parallel"]) == (1, 2)
    # The flag of rows before April 2026 did nothing.
    for day, sizes in (("2026-04-03", (2, 1)), ("2026-04-22", (1, 2))):
        early = deployment_of(replace(closed, data_parallel=2, devices=4, measured_date=day))
        assert (early["tensor_parallel"], early["data_parallel"]) == sizes
    for changed, said in (
        ({"gpu": "TPU"}, "no hardware profile for TPU"),
        ({"model": "nobody/knows"}, "unknown model"),
        ({"precision": "fp3"}, "unknown precision"),
    ):
        with pytest.raises(InputError, match=said):
            deployment_of(replace(closed, **changed))


def test_rows_of_known_scripts_get_their_flags(rows: list[PublishedRow]) -> None:
    closed = replace(rows[0], length_rule="uniform", prompt_tokens=1000.0, expert_parallel=1)

    def served(gpu: str, model: str, precision: str, version: str) -> tuple[object, ...]:
        row = replace(closed, gpu=gpu, model=model, precision=precision, engine_version=version)
        found = deployment_of(row)
        engine = found["engine"]
        return (
            found["kv_cache_dtype"],
            found["expert_parallel"],
            engine["fuse_allreduce_rms"],
            engine["max_num_batched_tokens"],
            engine["max_cudagraph_capture_size"],
        )

    minimax, llama = "MiniMaxAI/MiniMax-M2.5", "meta-llama/Llama-3.1-70B"
    assert served("H200", minimax, "fp8", "0.16.0") == (None, True, False, None, None)
    assert served("H200", minimax, "fp8", "0.18.0") == (None, True, True, None, None)
    assert served("B200", minimax, "fp8", "0.17.0") == (None, True, True, None, None)
    assert served("B200", minimax, "fp8", "0.19.0") == ("fp8", False, True, 2000, 2048)
    assert served("B200", minimax, "fp4", "nightly-5b8c") == ("fp8", False, True, None, None)
    assert served("H100", llama, "fp8", "") == ("fp8", False, False, 8192, None)
    assert served("B200", llama, "fp8", "") == ("fp8", False, True, 8192, None)
    assert served("H200", "openai/gpt-oss-120b", "fp4", "0.18.0") == (None, False, True, 8192, 2048)
    assert served("B200", "moonshotai/Kimi-K2.5", "int4", "0.15.1") == (
        None, False, True, None, None,
    )  # fmt: skip
    # Of other models and set-ups no script is known: vLLM's defaults, before norms were fused.
    assert served("H100", "Qwen/Qwen3-32B", "fp8", "0.18.0") == (None, False, False, None, None)
    in_house = replace(closed, model=llama, gpu="B200", length_rule="nominal; not stated")
    assert deployment_of(in_house)["kv_cache_dtype"] is None


def test_rows_are_told_by_how_they_were_measured(rows: list[PublishedRow]) -> None:
    closed, chat = rows[0], rows[1]
    assert harness_of(chat) is CHATS
    nominal = replace(closed, length_rule="nominal; policy not stated", engine_version="0.12.0")
    assert harness_of(nominal) is IN_HOUSE
    assert harness_of(replace(nominal, source="x id=kimi_gap_analysis_1")) is PUBLIC
    assert harness_of(closed) is FIRST_PUBLIC
    assert harness_of(replace(closed, engine_version="0.19.0")) is PUBLIC
    front_end = scenario_of(closed).front_end
    assert front_end is not None
    assert front_end.ingest_s_per_token == TOKENISING_S_PER_TOKEN
    alone = scenario_of(chat).front_end
    assert alone is not None
    assert alone.ingest_s == alone.ingest_s_per_token == 0


def test_a_row_is_predicted_with_the_calibration_of_its_engine(rows: list[PublishedRow]) -> None:
    older = scenario_of(replace(rows[1], engine_version="0.11.1*")).generator.calibration
    assert older is not None
    assert older.endswith("h100_sxm_vllm_0.11.yaml")
    assert scenario_of(replace(rows[1], engine_version="0.24.0")).generator.calibration is None
    given = scenario_of(replace(rows[1], engine_version="0.11.1*"), "datasheet")
    assert given.generator.calibration == "datasheet"


def test_rows_that_cannot_be_replayed_say_why(rows: list[PublishedRow]) -> None:
    closed, chat = rows
    for row, said in (
        (replace(closed, load="open_loop"), "cannot be replayed"),
        (replace(closed, prompt_tokens=None), "prompt_len is missing"),
        (replace(chat, max_num_seqs=None), "max_num_seqs is missing"),
        (replace(chat, max_num_seqs=1024), "window is not defined"),
    ):
        with pytest.raises(InputError, match=said):
            scenario_of(row)


def test_the_window_holds_the_batch_limit(rows: list[PublishedRow]) -> None:
    row = rows[1]
    found = metrics_of(row, simulate(scenario_of(row), trace=requests_of(row)))
    batch = found["tpot_ms"] * found["output_tokens_per_s"] / 1e3
    assert batch == pytest.approx(64, rel=0.02)
    # In its window the engine is never idle: joules a token are watts over tokens a second.
    assert found["j_per_token"] == pytest.approx(found["power_w"] / found["output_tokens_per_s"])
    assert 75 < found["power_w"] < 700


def test_every_row_is_answered(rows: list[PublishedRow]) -> None:
    closed, chat = rows
    doubtful = replace(chat, id="c", suspect=True)
    lost = replace(closed, id="d", gpu="TPU")
    impossible = replace(closed, id="e", task="other", measured={"tpot_ms": 1.0})
    queued = replace(closed, id="g", measured={"ttft_ms": 9000.0, "tpot_ms": 16.0})
    hot = replace(chat, id="f", concurrency=30, max_num_seqs=32, measured={"power_w": 600.0})
    seen: list[tuple[int, int]] = []
    found = predict_rows(
        [closed, chat, doubtful, lost, impossible, hot, queued],
        progress=lambda *at: seen.append(at),
    )
    assert [each.row.id for each in found] == ["a", "b", "c", "d", "e", "f", "g"]
    reasons = [each.unscored and each.unscored.partition(":")[0] for each in found]
    assert reasons == [
        None,
        "host-bound",
        "marked as suspect by its source",
        "no hardware profile for TPU",
        "faster than the datasheet allows",
        None,
        "at the KV limit",
    ]
    assert found[3].predicted == {}
    assert found[0].time_level == "calibrated"
    assert seen[-1] == (7, 7)


def test_sweeps_with_impossible_rows_are_not_believed(rows: list[PublishedRow]) -> None:
    impossible = replace(rows[0], id="b", measured={"tpot_ms": 1.0})
    found = predict_rows([rows[0], impossible])
    assert found[0].unscored == "its sweep cannot be: 1 of 2 rows are impossible"
    assert found[1].unscored == "faster than the datasheet allows"
    many = predict_rows([replace(rows[0], id=f"a{n}") for n in range(10)] + [impossible])
    assert [each.unscored for each in many[:10]] == [None] * 10  # one of eleven may be a slip


def test_what_a_borrowed_kernel_predicts_is_extrapolated(rows: list[PublishedRow]) -> None:
    found = predict_rows([replace(rows[0], gpu="B300")])
    assert found[0].unscored == "extrapolated: kernels of b200_sxm stand for this device"


@pytest.mark.parametrize(
    ("name", "model", "least", "most"),
    [
        ("mlenergy_chat", "meta-llama/Llama-3.1-70B-Instruct", 10, 0.06),
        ("mlenergy_chat", "Qwen/Qwen3-8B", 9, 0.06),
        ("mlenergy_chat", "meta-llama/Llama-3.1-8B-Instruct", 10, 0.07),
        ("mlenergy_chat", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", 12, 0.06),
        ("mlenergy_chat", "google/gemma-3-27b-it", 9, 0.06),
        ("silicon_sample", "Qwen/Qwen3-32B", 12, 0.05),
        ("silicon_sample", "MiniMaxAI/MiniMax-M2.5", 12, 0.05),
    ],
)
def test_what_the_documents_say_of_h100(name: str, model: str, least: int, most: float) -> None:
    path = EVIDENCE / f"{name}.csv.gz"
    chosen = [row for row in load_rows(path) if row.gpu == "H100" and row.model == model]
    report = PublishedReport(name, tuple(predict_rows(chosen[:15])))
    found = report.total["tpot_ms"]
    assert found is not None
    assert found.count >= least
    assert found.median <= most


def outcome(name: str, error: float, **changes: object) -> Outcome:
    row = PublishedRow(
        name, "", "H100", "org/m", 1, 1, 1, 1, "", "bf16", "", "closed_fixed_concurrency", "", 8.0,
        None, None, 100.0, 50.0, "", False, {"tpot_ms": 10.0},
    )  # fmt: skip
    row = replace(row, **changes)  # type: ignore[arg-type]
    return Outcome(row, {"tpot_ms": 10.0 * (1 + error)}, None)


def test_errors_are_grouped_and_the_worst_come_first() -> None:
    outcomes = (
        outcome("a", 0.1),
        outcome("b", -0.3, gpu="B200"),
        outcome("c", 0.2, concurrency=100.0),
        replace(outcome("d", 9.0), unscored="at the KV limit: 97% of it used"),
    )
    report = PublishedReport("x.csv", outcomes)
    assert [each.row.id for each in report.worst()] == ["b", "c", "a"]
    total = report.total["tpot_ms"]
    assert total is not None
    assert (total.count, total.median) == (3, pytest.approx(0.2))
    assert report.total["power_w"] is None
    by_device = report.groups("device")
    assert list(by_device) == ["H100", "B200"]
    own = by_device["H100"]["tpot_ms"]
    assert own is not None
    assert own.median == pytest.approx(0.15)
    assert list(report.groups("concurrency")) == ["8-15", "64-127"]
    assert list(report.unscored) == ["at the KV limit"]
    text = published_text(report)
    assert "3 of 4 rows scored" in text
    assert "-30.0%  b" in text


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ttcsim", "validate", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_command_line(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", CLOSED, CHAT)
    done = run("published", path, "--format", "json", "--output", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    assert [row["row_id"] for row in report["rows"]] == ["a", "b"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "published.json", "published.txt", "rows.csv.png",
    ]  # fmt: skip
    assert run(path, "-q", "--max-error", "0.0001").returncode == 1


def test_command_line_refuses(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", CLOSED)
    for arguments, said in (
        (["published"], "give at least one table"),
        (["published", tmp_path / "none.csv"], "none.csv"),
        ([path, tmp_path], "give it without runs"),
        ([path, "--model", "x"], "--model: the table says that"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
