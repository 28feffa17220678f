"""Measurements by others as measured runs: `vllm bench serve` results, LLMServingSim's runs.

Each is one run with one call a question, and without steps. A single run says nothing of its
noise.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ttcsim.analysis.measure.campaign import Campaign, Rules, Workload
from ttcsim.analysis.measure.run_files import MeasuredCampaign, MeasuredRun, load_campaign_runs
from ttcsim.errors import InputError, invalid, nearest, read_text, unknown_name
from ttcsim.hwprofiles.catalogue import engine_calibration, profile_names
from ttcsim.simulator.results import Table
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.workloads.prefix_blocks import PrefixBlocks
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.readers import read_vllm_bench
from ttcsim.workloads.trace import Trace, TraceHeader

Fields = dict[str, Any]

_SAMPLING = {"sampling": "plain"}  # vLLM's defaults: neither asks for top-k or top-p
_BLOCK_TOKENS = 16
"""Prompts share whole blocks; vLLM's default size on GPUs. [tokens]"""


def load_measured(path: str | Path, fields: Fields | None = None) -> list[MeasuredCampaign]:
    """Read whatever was measured: a campaign, or a measurement by others.

    Args:
        path: Directory of `ttcsim measure`; JSON file of `vllm bench serve --save-detailed`; or a
            directory with LLMServingSim's `requests.csv` and `runs_meta.json`.
        fields: Of a scenario: says what served, where the file does not.

    Raises:
        InputError: If it is none of these, or cannot be read.
    """
    path = Path(path)
    if path.is_dir() and (path / "requests.csv").exists():
        return _llmservingsim(path, fields or {})
    if path.is_file():
        return [_bench(path, fields or {})]
    return [load_campaign_runs(path)]


# -- vllm bench serve ----------------------------------------------------------------------------


class _Bench(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model_id: str = ""
    duration: float = Field(gt=0)
    ttfts: list[float]
    itls: list[list[float]]
    errors: list[str]
    start_times: list[float]


def _bench(path: Path, fields: Fields) -> MeasuredCampaign:
    trace = read_vllm_bench(path)
    try:
        found = _Bench.model_validate(json.loads(read_text(path)))
    except (ValueError, ValidationError) as error:
        if isinstance(error, ValidationError):
            raise invalid(str(path), error) from None
        raise InputError(f"{path}: not a result of `vllm bench serve`: {error}") from None
    for name in ("ttfts", "itls"):
        if len(getattr(found, name)) != len(found.start_times):
            raise InputError(f"{path}: {name}: as many entries as start_times are needed")
    kept = [index for index, error in enumerate(found.errors) if not error]
    start = min(found.start_times[index] for index in kept)
    rows = []
    for question, index in zip(trace.questions, kept, strict=True):
        sent = found.start_times[index] - start
        first = sent + found.ttfts[index]
        rows.append((question, sent, first, first + sum(found.itls[index])))
    generator = {"model": found.model_id, **_SAMPLING, **fields.get("generator", {})}
    if "hardware" not in generator:
        raise InputError(f"{path}: does not say on what hardware; give --hardware")
    scenario = _scenario(path, {**fields, "generator": generator})
    server = {"vllm": "of unknown version", "model": generator["model"], "settings": None}
    return _campaign(path, path.stem, scenario, trace, rows, server)


# -- LLMServingSim -------------------------------------------------------------------------------

_COLUMNS = {
    "run": str, "request_id": str, "input_toks": int, "output_toks": int,
    "queued_ts_rel_s": float, "first_token_ts_rel_s": float, "last_token_ts_rel_s": float,
}  # fmt: skip


def _llmservingsim(folder: Path, fields: Fields) -> list[MeasuredCampaign]:
    """One campaign for each run of the file; times are the engine's, from queued on."""
    rows = _read_csv(folder / "requests.csv", _COLUMNS)
    meta_path = folder / "runs_meta.json"
    try:
        meta = json.loads(read_text(meta_path))
    except ValueError as error:
        raise InputError(f"{meta_path}: not valid JSON: {error}") from None
    found = []
    for run in dict.fromkeys(row["run"] for row in rows):
        if run not in meta:
            raise unknown_name(f"run in {meta_path}", run, meta)
        own = [row for row in rows if row["run"] == run]
        found.append(_servingsim_run(folder, run, own, meta[run], fields))
    return found


def _servingsim_run(
    folder: Path, run: str, rows: list[Fields], meta: Mapping[str, Any], fields: Fields
) -> MeasuredCampaign:
    where = folder / "requests.csv"
    engine = meta["engine_kwargs"]
    device = _device(run)
    calibration = engine_calibration(device, str(meta.get("vllm_version", "")))
    generator = {
        "model": meta["model"],
        "hardware": device,
        "calibration": str(calibration) if calibration else None,
        "tensor_parallel": engine["tensor_parallel_size"],
        "data_parallel": engine.get("data_parallel_size", 1),
        "expert_parallel": engine.get("enable_expert_parallel", False),
        **_SAMPLING,
        "engine": {
            name: engine[name]
            for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len")
            if engine.get(name) is not None
        },
        **fields.get("generator", {}),
    }
    scenario = _scenario(where, {**fields, "generator": generator})
    workload = meta.get("workload_file")
    prefixes = _shared_prefixes(folder / workload) if workload else None
    blocks = PrefixBlocks(_BLOCK_TOKENS)
    questions = []
    measured = []
    for number, row in enumerate(rows):
        prompt = row["input_toks"]
        hashes = prefixes[number][: prompt // _BLOCK_TOKENS] if prefixes else []
        question = Question(
            row["request_id"],
            prompt,
            (Sample(row["output_toks"]),),
            prefix=blocks.segments(hashes, prompt) if hashes else (),
            arrival_s=row["queued_ts_rel_s"],
        )
        questions.append(question)
        times = ("queued_ts_rel_s", "first_token_ts_rel_s", "last_token_ts_rel_s")
        measured.append((question, *(row[name] for name in times)))
    header = TraceHeader(
        name=run,
        description="requests of a measured run",
        origin=str(meta.get("origin", "LLMServingSim")),
        licence="MIT",
        tokenizer=meta["model"],
        models=(meta["model"],),
        accuracy_source="none",
    )
    server = {"vllm": meta.get("vllm_version", "?"), "model": meta["model"], "settings": None}
    trace = Trace(header, tuple(questions))
    return _campaign(folder, run, scenario, trace, measured, server)


def _device(run: str) -> str:
    """Name of the hardware profile behind `RTXPRO6000/model`."""
    name = run.partition("/")[0].lower()
    plain = {profile.replace("_", ""): profile for profile in profile_names()}
    found = next((plain[each] for each in plain if each.startswith(name)), None)
    close = found or nearest(name, profile_names())
    if close is None:
        raise InputError(f"run {run}: no hardware profile for it; give --hardware")
    return close


def _shared_prefixes(path: Path) -> list[list[int]]:
    """Ids of the prompt blocks of each request; equal ids where prompts are known to be equal."""
    columns = {
        "input_toks": int,
        "longest_prefix_shared_with_earlier_toks": int,
        "earlier_request_index": int,
    }
    ids: list[list[int]] = []
    fresh = 0
    for row in _read_csv(path, columns):
        count = row["input_toks"] // _BLOCK_TOKENS
        shared = row["longest_prefix_shared_with_earlier_toks"] // _BLOCK_TOKENS
        earlier = row["earlier_request_index"]
        own = list(ids[earlier][:shared]) if earlier >= 0 else []
        own += range(fresh, fresh + count - len(own))
        fresh += count
        ids.append(own)
    return ids


def _read_csv(path: Path, columns: Mapping[str, Any]) -> list[Fields]:
    lines = read_text(path).splitlines()
    rows = csv.DictReader(lines)
    for name in columns:
        if name not in (rows.fieldnames or ()):
            raise InputError(f"{path}:1: {name}: column is missing")
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            found.append({name: kind(row[name]) for name, kind in columns.items()})
        except (TypeError, ValueError):
            raise InputError(f"{path}:{number}: not a number where one is expected") from None
    if not found:
        raise InputError(f"{path}: holds no requests")
    return found


# -- what both become ----------------------------------------------------------------------------


def _scenario(where: Path, fields: Fields) -> Scenario:
    own = {"strategy": "single", "arrivals": {"kind": "trace"}, "trace": str(where)}
    return make_scenario(str(where), {**fields, **own})


def _campaign(
    path: Path,
    name: str,
    scenario: Scenario,
    trace: Trace,
    rows: Sequence[tuple[Question, float, float, float]],
    server: Fields,
) -> MeasuredCampaign:
    workload = Workload(name="run", role="validate", load="as recorded", scenario=scenario)
    rules = Rules(repeats=1, max_repeats=1, min_run_s=0)
    calls: dict[str, list[Any]] = {
        "question_id": [], "call": [], "state": [], "sent_s": [], "first_token_s": [], "end_s": [],
        "prompt_tokens": [], "output_tokens": [],
    }  # fmt: skip
    for question, sent, first, end in rows:
        values = (question.id, 0, "finished", sent, first, end, question.prompt_tokens,
                  question.samples[0].output_tokens)  # fmt: skip
        for column, value in zip(calls.values(), values, strict=True):
            column.append(value)
    questions = {
        "question_id": calls["question_id"],
        "makespan_s": [end - sent for _, sent, _, end in rows],
        "end_s": calls["end_s"],
    }
    wall_s = max(calls["end_s"])
    run = MeasuredRun(
        path, workload, 1, None, wall_s, None, Table(questions), Table(calls), {"schedule": None}
    )
    campaign = Campaign(name=name, rules=rules, workloads=(workload,))
    return MeasuredCampaign(
        path, campaign, server, {"processor": scenario.generator.hardware}, (run,), trace
    )
