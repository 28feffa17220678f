"""Build the bundled traces from tables of per-sample numbers.

    python -m ttcsim.workloads.build_traces SOURCE_DIR

SOURCE_DIR holds `atts_math500_traces.csv.gz`, `qwen25math_bo8_rm.csv` and
`tot_game24_samples.csv.gz`; the columns are described in `docs/traces.md`. The files are written to
`traces/` beside this module, byte for byte the same each time.
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from ttcsim.errors import InputError
from ttcsim.workloads.files import read_lines
from ttcsim.workloads.trace import (
    Question,
    Sample,
    SampleCall,
    Trace,
    TraceHeader,
    write_trace,
)

Row = dict[str, str]

_R1_8B = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
_QWQ_32B = "Qwen/QwQ-32B"
_ATTS_ORIGIN = "github.com/menik1126/Asynchronous-Test-Time-Scaling@bedf81d, results/"
_NUMBERS_ONLY = "source has no licence file; facts only (numbers, no text)"

# The best-of-8 table has no prompt lengths; this is the mean of the MATH-500 questions in the ATTS
# table (76.45 Llama-3 tokens), which are drawn from the same benchmark.
_MATH_PROMPT_TOKENS = 76

# The log's usage grows by 2,185 prompt tokens a question, billed once per request; 100 samples were
# drawn in 5 requests of 20, the most that the API takes, and 2,185 / 5 = 437.
_GAME24_PROMPT_TOKENS = 437


def build(source: Path, target: Path) -> list[Path]:
    """Write the four bundled traces into `target` and return their paths.

    Raises InputError if a source file is missing or `target` cannot be written.
    """
    atts = _rows(source / "atts_math500_traces.csv.gz")
    traces = [
        _math500([row for row in atts if row["run"] == "draft_only"]),
        _math500_mixed([row for row in atts if row["run"] == "atts_draft8B_eval_QwQ32B"]),
        _math_rm8(_rows(source / "qwen25math_bo8_rm.csv")),
        _game24(_rows(source / "tot_game24_samples.csv.gz")),
    ]
    paths = [target / f"{trace.header.name}.jsonl.gz" for trace in traces]
    for trace, path in zip(traces, paths, strict=True):
        write_trace(trace, path)
    return paths


def _math500(rows: list[Row]) -> Trace:
    header = TraceHeader(
        name="math500_r1_8b",
        description=(
            "MATH-500, 100 problems x 16 samples, in up to 15 turns of 500 tokens, stopped at the"
            " first boxed answer (run draft_only: the 8B model continues itself)"
        ),
        origin=f"{_ATTS_ORIGIN} run draft_only",
        licence=_NUMBERS_ONLY,
        tokenizer="Llama-3",
        models=(_R1_8B,),
    )
    return Trace(header, tuple(_atts_question(group, ()) for group in _by_problem(rows)))


def _math500_mixed(rows: list[Row]) -> Trace:
    header = TraceHeader(
        name="math500_r1_8b_qwq32b",
        description=(
            "MATH-500, 100 problems x 16 samples, 8B model drafting turns of 500 tokens; QwQ-32B"
            " continues the turns it finds surprising (run atts_draft8B_eval_QwQ32B)"
        ),
        origin=f"{_ATTS_ORIGIN} run atts_draft8B_eval_QwQ32B",
        licence=_NUMBERS_ONLY,
        tokenizer="Llama-3",
        models=(_R1_8B, _QWQ_32B),
    )
    return Trace(header, tuple(_atts_question(group, header.models) for group in _by_problem(rows)))


def _atts_question(rows: list[Row], models: tuple[str, ...]) -> Question:
    first = rows[0]
    return Question(
        id=f"math500-{int(first['problem_id']):03d}",
        prompt_tokens=int(first["question_tokens"]),
        tags={"level": int(first["level"]), "subject": first["subject"]},
        samples=tuple(
            Sample(
                output_tokens=int(row["total_output_tokens"]),
                answer=_answer(row),
                correct=row["correct"] == "1",
                seconds=float(row["duration_s"]),
                calls=_calls(row) if models else (),
            )
            for row in rows
        ),
    )


def _calls(row: Row) -> tuple[SampleCall, ...]:
    """Split a sample by model: d and s are the 8B draft model, e is QwQ-32B.

    Calls that produced nothing are left out.
    """
    letters, tokens = row["call_models"], map(int, row["call_tokens"].split())
    pairs = zip(letters, tokens, strict=True)
    return tuple(SampleCall(_QWQ_32B if m == "e" else _R1_8B, t) for m, t in pairs if t)


def _math_rm8(rows: list[Row]) -> Trace:
    header = TraceHeader(
        name="math_rm8",
        description=(
            "MATH, 100 problems x 8 samples with reward-model scores. Prompt lengths are not in the"
            f" source: every prompt is {_MATH_PROMPT_TOKENS} tokens, the mean of math500_r1_8b"
        ),
        origin=(
            "github.com/QwenLM/Qwen2.5-Math@a45202b,"
            " evaluation/data/eval_rm_maj_example/math_cot_100.jsonl"
        ),
        licence=_NUMBERS_ONLY,
        tokenizer="Qwen2.5",
        models=("Qwen2.5-Math (size not recorded)",),
    )
    return Trace(header, tuple(_rm8_question(group) for group in _by_problem(rows)))


def _rm8_question(rows: list[Row]) -> Question:
    return Question(
        id=f"math-{int(rows[0]['problem_id']):03d}",
        prompt_tokens=_MATH_PROMPT_TOKENS,
        tags={"level": int(rows[0]["level"].removeprefix("Level "))},
        samples=tuple(
            Sample(
                output_tokens=int(row["output_tokens_qwen"]),
                answer=_answer(row),
                correct=row["correct"] == "1",
                score=float(row["rm_score"]),
            )
            for row in rows
        ),
    )


def _game24(rows: list[Row]) -> Trace:
    header = TraceHeader(
        name="game24_gpt4",
        description=(
            "Game of 24, 100 puzzles x 100 chain-of-thought samples; answers are not in the source,"
            " only whether they are right. The standard-prompt run is left out: it was not judged"
        ),
        origin="github.com/princeton-nlp/tree-of-thought-llm@ab40034, logs/game24/",
        licence="MIT",
        tokenizer="cl100k",
        models=("gpt-4",),
    )
    cot = [row for row in rows if row["method"] == "cot"]
    return Trace(header, tuple(_game24_question(group) for group in _by_problem(cot)))


def _game24_question(rows: list[Row]) -> Question:
    return Question(
        id=f"game24-{rows[0]['problem_id']}",
        prompt_tokens=_GAME24_PROMPT_TOKENS,
        samples=tuple(
            Sample(int(row["output_tokens_cl100k"]), correct=float(row["correct"]) == 1)
            for row in rows
        ),
    )


def _answer(row: Row) -> int | None:
    number = int(row["answer_id"])
    return None if number == -1 else number


def _rows(path: Path) -> list[Row]:
    return list(csv.DictReader(read_lines(path)))


def _by_problem(rows: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each problem, in order of problem and sample."""
    ordered = sorted(rows, key=lambda row: (int(row["problem_id"]), int(row["sample_id"])))
    for _, group in itertools.groupby(ordered, key=lambda row: row["problem_id"]):
        yield list(group)


def main(arguments: list[str]) -> int:
    """Run from the command line; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m ttcsim.workloads.build_traces SOURCE_DIR", file=sys.stderr)
        return 2
    try:
        paths = build(Path(arguments[0]), Path(__file__).resolve().parent / "traces")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
