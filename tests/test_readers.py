"""Foreign request traces: what is read, and where errors point."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ttcsim.errors import InputError
from ttcsim.workloads.readers import (
    read_azure_csv,
    read_mooncake,
    read_requests,
    read_vllm_bench,
)
from ttcsim.workloads.trace import PrefixSegment, Trace, load_trace, read_trace, write_trace

MOONCAKE = """\
{"timestamp": 27000, "input_length": 1200, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 27000, "input_length": 1536, "output_length": 490, "hash_ids": [0, 1, 14]}
{"timestamp": 30500, "input_length": 700, "output_length": 7, "hash_ids": [0]}
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:00:00.0000001,879,55
"""
VLLM = {
    "date": "20260808-101500",
    "model_id": "Qwen/Qwen3-8B",
    "tokenizer_id": "Qwen/Qwen3-8B",
    "num_prompts": 3,
    "request_rate": "inf",
    "completed": 2,
    "input_lens": [100, 50, 10],
    "output_lens": [7, 0, 9],
    "start_times": [5012.5, 5012.75, 5013.5],
    "ttfts": [0.1, 0.0, 0.2],
    "itls": [[0.01], [], [0.02]],
    "generated_texts": ["a", "", "b"],
    "errors": ["", "Bad Request", ""],
}


def saved(folder: Path, text: str, name: str = "requests.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_mooncake(tmp_path: Path) -> None:
    trace = read_mooncake(saved(tmp_path, MOONCAKE))
    first, second, third = trace.questions
    assert [q.arrival_s for q in trace.questions] == [0, 0, 3.5]
    assert (first.prompt_tokens, first.samples[0].output_tokens) == (1200, 500)
    assert [part.tokens for part in first.prefix] == [512, 512, 176]
    assert [part.tokens for part in second.prefix] == [512, 512, 512]
    assert first.prefix[:2] == second.prefix[:2]
    assert first.prefix[2] != second.prefix[2]
    # 188 prompt tokens follow the only block; they belong to no segment.
    assert third.prefix == (PrefixSegment("0", 512),)
    assert third.prompt_tokens == 700
    assert first.samples[0].correct is None
    assert trace.header.accuracy_source == "none"


def test_mooncake_ids_behind_other_blocks_are_not_shared(tmp_path: Path) -> None:
    lines = (
        '{"timestamp":0,"input_length":1024,"output_length":1,"hash_ids":[1,2]}\n'
        '{"timestamp":0,"input_length":1024,"output_length":1,"hash_ids":[3,2]}\n'
        '{"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1,2]}\n'
    )
    prefixes = [q.prefix for q in read_mooncake(saved(tmp_path, lines)).questions]
    assert [[part.id for part in prefix] for prefix in prefixes] == [
        ["1", "2"],
        ["3", "2#1"],
        ["1", "2#2"],
    ]


def test_mooncake_with_small_blocks_or_none(tmp_path: Path) -> None:
    line = '{"timestamp":1,"input_length":20,"output_length":1,"hash_ids":[5,6]}'
    (question,) = read_mooncake(saved(tmp_path, line), block_tokens=16).questions
    assert [part.tokens for part in question.prefix] == [16, 4]
    (question,) = read_mooncake(saved(tmp_path, line.replace("[5,6]", "[]"))).questions
    assert question.prefix == ()


def test_azure_keeps_seven_fraction_digits(tmp_path: Path) -> None:
    trace = read_azure_csv(saved(tmp_path, AZURE))
    assert [q.arrival_s for q in trace.questions] == [0, 4.314579, 20653.3194101]
    assert [q.prompt_tokens for q in trace.questions] == [374, 396, 879]
    assert [q.samples[0].output_tokens for q in trace.questions] == [44, 109, 55]


def test_azure_with_more_columns_and_offset(tmp_path: Path) -> None:
    text = (
        "\ufeffTIMESTAMP,NumImages,ContextTokens,GeneratedTokens\r\n"
        "2024-05-10 00:00:01+00:00,0,5,6\r\n2024-05-10 00:00:00.5Z,1,7,8\r\n"
    )
    trace = read_requests(saved(tmp_path, text))
    assert [(q.arrival_s, q.prompt_tokens) for q in trace.questions] == [(0.5, 5), (0, 7)]


@pytest.mark.parametrize("indent", [None, 2])
def test_vllm_bench_drops_failed_requests(tmp_path: Path, indent: int | None) -> None:
    trace = read_requests(saved(tmp_path, json.dumps(VLLM, indent=indent)))
    assert [q.id for q in trace.questions] == ["0", "2"]
    assert [q.arrival_s for q in trace.questions] == [0, 1]
    assert [q.prompt_tokens for q in trace.questions] == [100, 10]
    assert [q.samples[0].output_tokens for q in trace.questions] == [7, 9]
    assert trace.header.models == ("Qwen/Qwen3-8B",)


@pytest.mark.parametrize("text", [MOONCAKE, AZURE, json.dumps(VLLM)])
def test_format_is_told_by_content_and_survives_ours(tmp_path: Path, text: str) -> None:
    packed = tmp_path / "any.bin"
    packed.write_bytes(gzip.compress(text.encode()))
    trace = read_requests(packed)
    write_trace(trace, tmp_path / "ours.jsonl.gz")
    assert read_trace(tmp_path / "ours.jsonl.gz") == trace
    assert read_requests(tmp_path / "ours.jsonl.gz") == trace


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_mooncake, MOONCAKE.replace('"output_length": 490, ', ""), ":2: output_length: field"),
        (read_mooncake, MOONCAKE.replace("[0, 1, 14]", "[0,"), ":2: invalid JSON"),
        (read_mooncake, MOONCAKE.replace("700", "0"), ":3: input_length: input should be"),
        (
            read_mooncake,
            MOONCAKE.replace("1200", "1024"),
            ":1: hash_ids: 3 blocks of 512 tokens are more than a prompt of 1024 tokens needs",
        ),
        (
            read_azure_csv,
            AZURE.replace("Context", "Prompt"),
            ":1: ContextTokens: column is missing",
        ),
        (read_azure_csv, AZURE.replace(",396,", ",x,"), ":3: ContextTokens: expected a number"),
        (read_azure_csv, AZURE.replace(",109", ",0"), ":3: GeneratedTokens: expected a number"),
        (read_azure_csv, AZURE.replace(",396,109", ""), ":3: expected 3 columns, found 1"),
        (read_azure_csv, AZURE.replace("2023-11-17 ", "noon "), ":4: TIMESTAMP: expected YYYY"),
        (read_azure_csv, AZURE.replace("2023-11-17", "2023-13-17"), ":4: TIMESTAMP: month must"),
        (read_azure_csv, AZURE.splitlines()[0], "holds no requests"),
        (
            read_vllm_bench,
            json.dumps({**VLLM, "start_times": [1.0]}),
            "start_times: 1 entries, input_lens has 3",
        ),
        (
            read_vllm_bench,
            json.dumps({**VLLM, "output_lens": [7, 0, 0]}),
            "output_lens.2: expected",
        ),
        (read_vllm_bench, json.dumps({**VLLM, "errors": ["x"] * 3}), "holds no requests"),
        (read_vllm_bench, '{"num_prompts": 3}', "--save-detailed`: input_lens: field required"),
        (read_vllm_bench, f"{json.dumps(VLLM)}\n{json.dumps(VLLM)}", "several results"),
        (read_requests, "id;tokens\n1;2\n", ":1: not a known trace format (have: ttc-questions/1"),
        (read_requests, "", ":1: not a known trace format"),
        (read_requests, '{"num_prompts": 3}', "input_lens: field required"),
    ],
)
def test_errors_say_where(
    tmp_path: Path, reader: Callable[[Path], Trace], text: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        reader(saved(tmp_path, text))
    assert "requests.txt" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_own_format_is_recognised(tmp_path: Path) -> None:
    trace = load_trace("math_rm8")
    write_trace(trace, tmp_path / "copy.jsonl")
    assert read_requests(tmp_path / "copy.jsonl") == trace


def test_thousands_of_mooncake_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {
                "timestamp": 294 * i,
                "input_length": 12_035,
                "output_length": 343,
                "hash_ids": [0, *range(24 * i + 1, 24 * i + 24)],
            }
        )
        for i in range(4000)
    ]
    trace = read_requests(saved(tmp_path, "\n".join(lines)))
    assert len(trace.questions) == 4000
    assert {question.prompt_tokens for question in trace.questions} == {12_035}
