"""The trace format: reading, writing, errors that say where, bundled traces, statistics."""

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcsim.errors import InputError
from ttcsim.workloads import build_traces
from ttcsim.workloads.trace import (
    PrefixSegment,
    Question,
    Sample,
    SampleCall,
    Trace,
    TraceHeader,
    load_trace,
    read_trace,
    trace_names,
    write_trace,
)
from ttcsim.workloads.trace_summary import expected_min, log_spread

HEADER = TraceHeader(
    name="test",
    description="é and \u2028 survive",
    origin="here",
    licence="CC0-1.0",
    tokenizer="none",
    models=("a", "b"),
)
FULL = Question(
    id="q1",
    prompt_tokens=100,
    prefix=(PrefixSegment("system", 60), PrefixSegment("few-shot", 40)),
    arrival_s=0.1,
    tags={"level": 3, "subject": "algebra"},
    samples=(
        Sample(10, 4, True, 0.25, steps=(3, 7), model="a", seconds=1.5),
        Sample(7, "x", False, calls=(SampleCall("a", 5), SampleCall("b", 2))),
        Sample(1),
    ),
)
HEADER_LINE = json.dumps(
    {
        "format": "ttc-questions/1",
        "name": "t",
        "description": "",
        "origin": "",
        "licence": "",
        "tokenizer": "",
        "models": [],
    }
)
GOOD = '{"id":"q","prompt_tokens":10,"samples":[{"output_tokens":5}]}'


def trace_file(folder: Path, *lines: str) -> Path:
    path = folder / "t.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    trace = Trace(HEADER, (FULL, Question("q2", 1, ())))
    write_trace(trace, tmp_path / name)
    assert read_trace(tmp_path / name) == trace
    assert [path.name for path in tmp_path.iterdir()] == [name]


finite = st.floats(allow_nan=False, allow_infinity=False)
answers = st.none() | st.integers(-(2**70), 2**70) | st.text()
samples = st.builds(
    Sample,
    st.integers(1, 2**40),
    answers,
    st.none(),
    st.none() | finite,
    seconds=st.none() | st.floats(0, 1e9),
)


@given(drawn=st.lists(samples).map(tuple), name=st.text())
def test_round_trip_of_any_values(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Sample, ...], name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    trace = Trace(HEADER, (Question(name, 1, drawn),))
    write_trace(trace, path)
    assert read_trace(path) == trace


def test_same_trace_gives_same_bytes(tmp_path: Path) -> None:
    trace = Trace(HEADER, (FULL,))
    write_trace(trace, tmp_path / "one.jsonl.gz")
    time.sleep(1.1)  # a time stamp in the gzip header counts seconds
    write_trace(trace, tmp_path / "two.jsonl.gz")
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id":"q","prompt_tokens":10', "t.jsonl:3: invalid JSON: EOF"),
        ("", "t.jsonl:3: invalid JSON"),
        (
            '{"id":"r","prompt_tokens":10,"samples":[{"output_tokens":1},{"answer":1}]}',
            "t.jsonl:3: samples.1.output_tokens: field required",
        ),
        (GOOD.replace("output_tokens", "output_token"), "did you mean 'output_tokens'"),
        (GOOD.replace('"q",', '"r","levle":1,'), "t.jsonl:3: levle: unknown field"),
        (GOOD, "t.jsonl:3: id: 'q' is already in line 2"),
        (GOOD.replace("5", "0"), "samples.0.output_tokens: input should be greater than or equal"),
        (GOOD.replace("10", "0"), "t.jsonl:3: prompt_tokens: input should be greater than"),
        (GOOD.replace("5", '"5"'), "samples.0.output_tokens: input should be a valid integer"),
        (GOOD.replace("5", '5,"score":NaN'), "samples.0.score: input should be a finite number"),
        (
            GOOD.replace("5", '5,"steps":[2,2]'),
            "samples.0.steps: they sum to 4, output_tokens is 5",
        ),
        (
            GOOD.replace("5", '5,"calls":[{"model":"a","tokens":6}]'),
            "samples.0.calls: they sum to 6, output_tokens is 5",
        ),
        (
            GOOD.replace('"samples"', '"prefix":[{"id":"s","tokens":11}],"samples"'),
            "prefix: segments hold 11 tokens, more than prompt_tokens 10",
        ),
        (
            '{"id":"r","prompt_tokens":1,"samples":[{"output_tokens":1,"answer":7,"correct":true},'
            '{"output_tokens":1,"answer":7,"correct":false}]}',
            "samples.1.correct: answer 7 is False here and True in samples.0",
        ),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = trace_file(tmp_path, HEADER_LINE, GOOD, line)
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('{"format":"ttc-questions/2"}', "t.jsonl:1: format: input should be 'ttc-questions/1'"),
        (HEADER_LINE.replace('"name"', '"nam"'), ":1: nam: unknown field; did you mean 'name'?"),
        (HEADER_LINE[:-1] + ',"accuracy_source":"guess"}', ":1: accuracy_source: "),
    ],
)
def test_bad_header_is_named(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_trace(trace_file(tmp_path, header))
    assert message in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read: No such file"):
        read_trace(tmp_path / "none.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text" * 100)[:-9])
    with pytest.raises(InputError, match="damaged gzip file"):
        read_trace(tmp_path / "cut.gz")
    (tmp_path / "noise.gz").write_bytes(gzip.compress(b"text" * 100)[:10] + b"\xff" * 40)
    with pytest.raises(InputError, match="damaged gzip file"):
        read_trace(tmp_path / "noise.gz")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        read_trace(tmp_path / "latin")


def test_bad_trace_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(InputError, match=r"question 'q': samples\.0\.output_tokens"):
        write_trace(Trace(HEADER, (Question("q", 1, (Sample(0),)),)), path)
    with pytest.raises(InputError, match="question 'q': the id is used twice"):
        write_trace(Trace(HEADER, (Question("q", 1, ()), Question("q", 1, ()))), path)
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(Trace(HEADER, ()), tmp_path / "absent" / "t.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_load_by_name_or_path(tmp_path: Path) -> None:
    assert trace_names() == ["game24_gpt4", "math500_r1_8b", "math500_r1_8b_qwq32b", "math_rm8"]
    path = trace_file(tmp_path, HEADER_LINE, GOOD)
    assert load_trace(path) == load_trace(str(path)) == read_trace(path)
    with pytest.raises(InputError, match="unknown trace 'math500'; did you mean 'math500_r1_8b'"):
        load_trace("math500")
    with pytest.raises(InputError, match="cannot be read"):
        load_trace("absent.jsonl")


@pytest.mark.parametrize(
    ("name", "questions", "samples", "prompt", "output"),
    [
        ("math500_r1_8b", 100, 16, 76.45, 2281.8),
        ("math500_r1_8b_qwq32b", 100, 16, 76.45, 2354.2),
        ("math_rm8", 100, 8, 76, 390.5),
        ("game24_gpt4", 100, 100, 437, 67.5),
    ],
)
def test_bundled_sizes(
    name: str, questions: int, samples: int, prompt: float, output: float
) -> None:
    summary = load_trace(name).summary()
    assert summary.questions == questions
    assert summary.min_samples == summary.max_samples == samples
    assert summary.mean_prompt_tokens == pytest.approx(prompt)
    assert summary.mean_output_tokens == pytest.approx(output, abs=0.05)


def test_bundled_spread_of_lengths() -> None:
    summary = load_trace("math500_r1_8b").summary()
    assert summary.sd_log_between == pytest.approx(0.96, abs=0.01)
    assert summary.sd_log_within == pytest.approx(0.38, abs=0.005)
    ratios = {2: 0.81, 4: 0.71, 8: 0.65, 16: 0.60}
    assert summary.min_ratio == pytest.approx(ratios, abs=0.005)


def test_mixed_trace_tags_the_models_of_calls() -> None:
    trace = load_trace("math500_r1_8b_qwq32b")
    draft, large = trace.header.models
    tokens = {draft: 0, large: 0}
    for question in trace.questions:
        for sample in question.samples:
            assert sum(call.tokens for call in sample.calls) == sample.output_tokens
            for call in sample.calls:
                tokens[call.model] += call.tokens
    assert sum(tokens.values()) == pytest.approx(1600 * 2354.18, abs=10)
    assert tokens[large] == 304 * 3200  # the mean of both runs is 304; the other has none


def test_build_from_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atts = (
        "run,problem_id,sample_id,level,subject,question_tokens,total_output_tokens,duration_s,"
        "answer_id,correct,call_models,call_tokens\n"
        "draft_only,0,0,5,Algebra,87,580,5.5,0,1,ds,500 80\n"
        "atts_draft8B_eval_QwQ32B,0,1,5,Algebra,87,30,1,-1,0,se,30 0\n"
        "atts_draft8B_eval_QwQ32B,0,0,5,Algebra,87,600,9,0,1,se,500 100\n"
    )
    (tmp_path / "atts_math500_traces.csv.gz").write_bytes(gzip.compress(atts.encode()))
    (tmp_path / "qwen25math_bo8_rm.csv").write_text(
        "problem_id,level,sample_id,output_tokens_qwen,answer_id,correct,rm_score\n"
        "7,Level 3,0,282,0,1,3.5\n"
    )
    games = (
        "method,problem_id,sample_id,output_tokens_cl100k,correct\n"
        "cot,900,0,63,1.0\nstandard,900,0,21,\n"
    )
    (tmp_path / "tot_game24_samples.csv.gz").write_bytes(gzip.compress(games.encode()))
    paths = build_traces.build(tmp_path, tmp_path)
    single, mixed, scored, game = (read_trace(path).questions[0] for path in paths)
    assert single.samples == (Sample(580, 0, True, seconds=5.5),)
    assert single.tags == {"level": 5, "subject": "Algebra"}
    assert [[call.tokens for call in s.calls] for s in mixed.samples] == [[500, 100], [30]]
    assert mixed.samples[1].answer is None
    assert scored == Question("math-007", 76, (Sample(282, 0, True, 3.5),), tags={"level": 3})
    assert game == Question("game24-900", 437, (Sample(63, correct=True),))
    assert build_traces.main([]) == 2
    assert build_traces.main([str(tmp_path / "absent")]) == 2
    assert "atts_math500_traces.csv.gz: cannot be read" in capsys.readouterr().err


def test_summary_of_small_traces() -> None:
    one = Trace(HEADER, (Question("q", 1, (Sample(4, correct=True, score=1.0),)),)).summary()
    assert (one.sd_log_between, one.sd_log_within, one.min_ratio) == (None, None, {})
    assert (one.accuracy_single, one.accuracy_majority, one.accuracy_best_score) == (1.0, None, 1.0)
    with pytest.raises(ValueError, match="questions without samples"):
        Trace(HEADER, ()).summary()


def test_helpers_of_the_summary() -> None:
    assert log_spread([[1, 1], [1, 1]]) == (0.0, 0.0)
    between, within = log_spread([[2, 4, 8]])
    assert between is None
    assert within == pytest.approx(0.693147)
    assert expected_min([3, 1, 2], 1) == 2
    assert expected_min([3, 1, 2], 3) == 1
