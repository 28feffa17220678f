"""The command line: exit codes, one-line errors, nothing half-written, the same bytes twice."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import ttcsim
from ttcsim import cli

BASE = ["--model", "Llama-3.1-8B", "--hardware", "h100_sxm"]
SMALL = [*BASE, "--questions", "4", "--quiet"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ttc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in a folder of its own; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ttcsim", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_simulate_prints_a_card_with_source_and_level(ttc: Run) -> None:
    code, out, err = ttc("simulate", *SMALL, "--strategy", "first_finish:n=4")
    assert code == 0
    assert "(trace)" in out
    assert "times: calibrated" in out
    assert err == ""


def test_json_is_all_there_is_on_stdout_and_the_same_twice(ttc: Run) -> None:
    words = ["simulate", *SMALL, "--strategy", "majority_vote:n=4", "--format", "json"]
    first, second = ttc(*words), ttc(*words)
    assert first == second
    assert json.loads(first[1])["kind"] == "prediction"


@pytest.mark.parametrize("tables", ["csv", "parquet"])
def test_output_folder_holds_tables_and_plots(ttc: Run, tmp_path: Path, tables: str) -> None:
    words = ["simulate", *SMALL, "--strategy", "single", "--output", "out", "--tables", tables]
    assert ttc(*words)[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(
        [
            "result.json",
            "timeline.png",
            *(f"{t}.{tables}" for t in ("calls", "engines", "questions")),
        ]
    )
    read = pd.read_csv if tables == "csv" else pd.read_parquet
    assert len(read(tmp_path / "out" / f"questions.{tables}")) == 4


def test_compare_writes_a_row_a_strategy(ttc: Run, tmp_path: Path) -> None:
    words = ["compare", *SMALL, "--strategy", "single", "--strategy", "first_finish:n=2"]
    code, out, _ = ttc(*words, "--output", "out", "--format", "csv")
    assert code == 0
    assert len(out.strip().splitlines()) == 3
    assert (tmp_path / "out" / "tradeoff.png").stat().st_size > 10_000


def test_another_strategy_changes_no_other_row(ttc: Run) -> None:
    words = ["compare", *SMALL, "--question-rate", "1", "--format", "json", "--strategy"]
    alone = json.loads(ttc(*words, "majority_vote:n=4")[1])["results"]
    both = json.loads(ttc(*words, "majority_vote:n=4", "--strategy", "best_of_n:n=8")[1])["results"]
    assert alone[0] == both[0]


def test_options_reach_the_scenario(ttc: Run) -> None:
    words = ["--tp", "2", "--max-num-seqs", "7", "--set", "generator.engine.watermark=0.25"]
    out = ttc("simulate", *SMALL, "--strategy", "single", "--format", "json", *words)[1]
    generator = json.loads(out)["scenario"]["generator"]
    assert generator["tensor_parallel"] == 2
    assert generator["engine"]["max_num_seqs"] == 7
    assert generator["engine"]["watermark"] == 0.25


def test_scenario_file_and_printed_scenario_agree(ttc: Run, tmp_path: Path) -> None:
    words = ["simulate", *SMALL, "--strategy", "best_of_n:n=2", "--format", "json"]
    out = ttc(*words)[1]
    (tmp_path / "scenario.yaml").write_text(json.dumps(json.loads(out)["scenario"]))
    assert ttc("simulate", "scenario.yaml", "--format", "json", "--quiet")[1] == out


BAD_INPUT = {
    "unknown hardware": (
        ["simulate", "--model", "Llama-3.1-8B", "--hardware", "h100", "--strategy", "single"],
        "did you mean 'h100_sxm'",
    ),
    "unknown model": (
        ["simulate", "--model", "Llama-3.2-8B", "--hardware", "l40s", "--strategy", "single"],
        "did you mean 'meta-llama/Meta-Llama-3.1-8B'",
    ),
    "unknown strategy": (
        ["simulate", *SMALL, "--strategy", "best_of_m"],
        "did you mean 'best_of_n'",
    ),
    "unknown trace": (
        ["simulate", *SMALL, "--strategy", "single", "--trace", "math500"],
        "did you mean 'math500_r1_8b'",
    ),
    "unknown parameter": (
        ["simulate", *SMALL, "--strategy", "best_of_n:m=4"],
        "unknown parameter of best_of_n 'm'",
    ),
    "parameter out of range": (
        ["simulate", *SMALL, "--strategy", "first_finish:n=0"],
        "strategy first_finish: n: input should be greater than or equal to 1 (found '0')",
    ),
    "negative rate": (
        ["simulate", *SMALL, "--strategy", "single", "--question-rate", "-1"],
        "rate: input should be greater than 0 (found -1.0)",
    ),
    "not a number": (
        ["simulate", *SMALL, "--strategy", "single", "--seed", "x"],
        "Invalid value for '--seed'",
    ),
    "unknown option": (["simulate", *SMALL, "--stratgy", "single"], "No such option"),
    "unknown verb": (["simulat"], "No such command 'simulat'"),
    "unknown format": (
        ["simulate", *SMALL, "--strategy", "single", "--format", "jsn"],
        "did you mean 'json'",
    ),
    "does not fit": (
        ["simulate", "--model", "Llama-3.1-70B", "--hardware", "rtx_4090", "--strategy", "single"],
        "bytes too many",
    ),
    "more samples than traced": (
        ["simulate", *SMALL, "--strategy", "majority_vote:n=17"],
        "the trace has 16",
    ),
    "unwritable output": (
        ["simulate", *SMALL, "--strategy", "single", "--output", "/proc/ttcsim"],
        "--output /proc/ttcsim: cannot be written",
    ),
    "unknown field": (
        ["simulate", *SMALL, "--strategy", "single", "--set", "generator.engine.max_seqs=4"],
        "generator.engine.max_seqs",
    ),
    "nothing to do": (["simulate", "--hardware", "l40s"], "--model is missing"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_2(ttc: Run, tmp_path: Path, case: str) -> None:
    words, expected = BAD_INPUT[case]
    code, out, err = ttc(*words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


BAD_FILES = {
    "malformed scenario": ("s.yaml", "generator: {model: [", "s.yaml:1"),
    "scenario without model": ("s.yaml", "generator: {hardware: l40s}\nstrategy: single",
                               "s.yaml: generator.model: field required"),
    "malformed profile": ("p.yaml", "name: x\n  bad: [\n", "p.yaml:2"),
    "trace with a missing field": (
        "t.jsonl",
        '{"format": "ttc-questions/1", "name": "t", "description": "d", "origin": "o",'
        ' "licence": "l", "tokenizer": "k", "models": ["m"]}\n'
        '{"id": "1", "prompt_tokens": 3, "samples": [{"answer": 1}]}\n',
        "t.jsonl:2: samples.0.output_tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_line_and_field(ttc: Run, tmp_path: Path, case: str) -> None:
    name, text, expected = BAD_FILES[case]
    (tmp_path / name).write_text(text)
    words = {
        "s.yaml": ["simulate", "s.yaml"],
        "p.yaml": ["simulate", "--model", "Llama-3.1-8B", "--hardware", "p.yaml"],
        "t.jsonl": ["simulate", *SMALL, "--trace", "t.jsonl"],
    }[name]
    code, out, err = ttc(*words, "--strategy", "single") if name != "s.yaml" else ttc(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_run_writes_nothing_into_the_output_folder(ttc: Run, tmp_path: Path) -> None:
    code, _, _ = ttc("simulate", *SMALL, "--strategy", "majority_vote:n=17", "--output", "out")
    assert code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["profiles", "models", "traces", "strategies"])
def test_catalogues_in_every_format(ttc: Run, verb: str) -> None:
    for format in ("table", "json", "csv"):
        code, out, _ = ttc(verb, "--format", format)
        assert code == 0
        assert len(out.splitlines()) > 4


def test_profile_shows_the_source_of_every_number(ttc: Run) -> None:
    out = ttc("profiles", "h100_sxm")[1]
    assert out.count("value:") <= out.count("source:")
    assert "compute_efficiency" in out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['ttcsim','--help']; from ttcsim.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'numpy','pandas','scipy','matplotlib','pydantic'} & set(sys.modules)))"
    )
    source = str(Path(ttcsim.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_exist() -> None:
    for name in ttcsim.__all__:
        assert getattr(ttcsim, name) is not None
