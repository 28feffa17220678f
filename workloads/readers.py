"""Readers of request traces in foreign formats: Mooncake, Azure, `vllm bench serve`.

Each request becomes a question with one sample and an arrival time; the first arrives at 0 s.
Nothing is known about correctness. Every error is an InputError that names file and line or field.
"""

import csv
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ttcsim.errors import InputError, invalid
from ttcsim.workloads.files import read_lines
from ttcsim.workloads.prefix_blocks import PrefixBlocks
from ttcsim.workloads.question import PrefixSegment, Question, Sample
from ttcsim.workloads.trace import Trace, TraceHeader, load_trace, read_trace

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_AZURE_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)?")
_VLLM_FIELD = re.compile(r'"(num_prompts|input_lens)"')
_NANOSECONDS = 1_000_000_000

Count = Annotated[int, Field(ge=1, strict=True)]


@dataclass(frozen=True, slots=True)
class _MooncakeRow:
    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_length: Count
    output_length: Count
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _VllmBench:
    input_lens: tuple[int, ...]
    output_lens: tuple[int, ...]
    start_times: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    errors: tuple[str, ...]
    model_id: str = "not recorded"
    tokenizer_id: str = "not recorded"


# No configuration: fields that are not named above are ignored, as the formats allow extra ones.
_MOONCAKE_ROW = TypeAdapter(_MooncakeRow)
_VLLM_BENCH = TypeAdapter(_VllmBench)


def read_requests(path: str | Path) -> Trace:
    """Read a trace in any known format, told by its content (not by its name).

    Raises InputError as the reader of that format does, or if the format is not recognised.
    """
    path = Path(path)
    lines = read_lines(path)
    first = lines[0].lstrip()
    if first.startswith(_AZURE_COLUMNS[0]):
        return _azure(path, lines)
    if '"ttc-questions/' in first:
        return read_trace(path)
    # A Mooncake line is short and whole; a result file may be one long line or indented.
    if '"input_length"' in first and '"timestamp"' in first:
        return _mooncake(path, lines, block_tokens=512)
    if first.startswith("{") and any(map(_VLLM_FIELD.search, lines)):
        return _vllm_bench(path, lines)
    raise InputError(
        f"{path}:1: not a known trace format (have: ttc-questions/1, Mooncake JSON Lines, Azure"
        f" CSV, vllm bench serve JSON)"
    )


def load_questions(name_or_path: str | Path) -> Trace:
    """Return a bundled trace by name, or read a file in any known format.

    Raises InputError as `load_trace` and `read_requests` do.
    """
    if Path(name_or_path).is_file():
        return read_requests(name_or_path)
    return load_trace(name_or_path)


def read_mooncake(path: str | Path, block_tokens: int = 512) -> Trace:
    """Read Mooncake JSON Lines: `timestamp` [ms], `input_length`, `output_length`, `hash_ids`.

    The k-th hash id names the k-th block of `block_tokens` prompt tokens and all before it; the
    last block may be partial. Prompt tokens beyond the last block are shared with nobody.

    Raises InputError that names the line and field.
    """
    return _mooncake(Path(path), read_lines(Path(path)), block_tokens)


def read_azure_csv(path: str | Path) -> Trace:
    """Read an Azure LLM inference trace: columns TIMESTAMP, ContextTokens, GeneratedTokens.

    TIMESTAMP is UTC with any number of fraction digits (2023-11-16 18:15:46.6805900). Other columns
    are ignored. Raises InputError that names the line and column.
    """
    return _azure(Path(path), read_lines(Path(path)))


def read_vllm_bench(path: str | Path) -> Trace:
    """Read a result of `vllm bench serve --save-result --save-detailed`.

    Failed requests (a text in `errors`) are dropped; arrivals are the recorded `start_times`.

    Raises InputError that names the field, for example when --save-detailed was not given.
    """
    return _vllm_bench(Path(path), read_lines(Path(path)))


def _mooncake(path: Path, lines: Sequence[str], block_tokens: int) -> Trace:
    blocks = PrefixBlocks(block_tokens)
    times_s, prompts, outputs, prefixes = [], [], [], []
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            row = _MOONCAKE_ROW.validate_json(line)
            prefixes.append(blocks.segments(row.hash_ids, row.input_length))
        except ValidationError as error:
            raise _bad_json_or_field(where, error) from error
        except ValueError as error:
            raise InputError(f"{where}: hash_ids: {error}") from error
        times_s.append(row.timestamp / 1000)
        prompts.append(row.input_length)
        outputs.append(row.output_length)
    return _trace(path, "Mooncake request trace", times_s, prompts, outputs, prefixes=prefixes)


def _azure(path: Path, lines: Sequence[str]) -> Trace:
    rows = csv.reader(lines)
    header = next(rows, [])
    for name in _AZURE_COLUMNS:
        if name not in header:
            raise InputError(f"{path}:1: {name}: column is missing (found {', '.join(header)})")
    columns = [header.index(name) for name in _AZURE_COLUMNS]
    times_ns, prompts, outputs = [], [], []
    for row in rows:
        where = f"{path}:{rows.line_num}"
        if len(row) <= max(columns):
            raise InputError(f"{where}: expected {len(header)} columns, found {len(row)}")
        time, prompt, output = (row[column] for column in columns)
        times_ns.append(_nanoseconds(where, time))
        prompts.append(_tokens(where, "ContextTokens", prompt))
        outputs.append(_tokens(where, "GeneratedTokens", output))
    # Subtract as integers: seconds since 1970 in a float would lose the last fraction digits.
    start = min(times_ns, default=0)
    times_s = [(time - start) / _NANOSECONDS for time in times_ns]
    return _trace(path, "Azure LLM inference trace", times_s, prompts, outputs)


def _nanoseconds(where: str, text: str) -> int:
    match = _AZURE_TIME.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{where}: TIMESTAMP: expected YYYY-MM-DD hh:mm:ss.fraction, found '{text}'"
        )
    try:
        moment = datetime.datetime.fromisoformat(f"{match[1]}+00:00")
    except ValueError as error:
        raise InputError(f"{where}: TIMESTAMP: {error} (found '{text}')") from error
    return int(moment.timestamp()) * _NANOSECONDS + int((match[2] or "0").ljust(9, "0")[:9])


def _tokens(where: str, column: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{where}: {column}: expected a number of tokens >= 1, found '{text}'")
    return int(text)


def _vllm_bench(path: Path, lines: Sequence[str]) -> Trace:
    try:
        result = _VLLM_BENCH.validate_json("\n".join(lines))
    except ValidationError as error:
        where = str(path)
        if len(lines) > 1 and lines[1].startswith("{"):
            where = f"{path}: several results (--append-result); keep one"
        elif error.errors()[0]["type"] == "missing":
            where = f"{path}: needs `vllm bench serve --save-detailed`"
        raise _bad_json_or_field(where, error) from error
    count = len(result.input_lens)
    for name in ("output_lens", "start_times", "errors"):
        found = len(getattr(result, name))
        if found != count:
            raise InputError(f"{path}: {name}: {found} entries, input_lens has {count}")
    kept = [index for index, error in enumerate(result.errors) if not error]
    for name in ("input_lens", "output_lens"):
        for index in kept:
            if getattr(result, name)[index] < 1:
                raise InputError(f"{path}: {name}.{index}: expected at least 1 token")
    return _trace(
        path,
        "vllm bench serve result",
        [result.start_times[index] for index in kept],
        [result.input_lens[index] for index in kept],
        [result.output_lens[index] for index in kept],
        names=kept,
        tokenizer=result.tokenizer_id,
        model=result.model_id,
    )


def _bad_json_or_field(where: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return InputError(f"{where}: {first['msg'][:1].lower() + first['msg'][1:]}")
    return invalid(where, error)


def _trace(
    path: Path,
    description: str,
    times_s: Sequence[float],
    prompts: Sequence[int],
    outputs: Sequence[int],
    *,
    prefixes: Sequence[tuple[PrefixSegment, ...]] = (),
    names: Sequence[int] = (),
    tokenizer: str = "not recorded",
    model: str = "not recorded",
) -> Trace:
    if not times_s:
        raise InputError(f"{path}: holds no requests")
    start = min(times_s)
    questions = tuple(
        Question(
            id=str(names[index] if names else index),
            prompt_tokens=prompts[index],
            samples=(Sample(outputs[index]),),
            prefix=prefixes[index] if prefixes else (),
            arrival_s=times_s[index] - start,
        )
        for index in range(len(times_s))
    )
    header = TraceHeader(
        name=path.name.split(".")[0],
        description=description,
        origin=path.name,
        licence="not recorded",
        tokenizer=tokenizer,
        models=(model,),
        accuracy_source="none",
    )
    return Trace(header, questions)
