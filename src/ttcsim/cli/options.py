"""Options that `simulate` and `compare` share, under the names that users of vLLM know."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ttcsim.errors import InputError, read_yaml

SCENARIO = Annotated[
    Path | None, typer.Argument(help="YAML file with a scenario; options below change it.")
]


def _option(help: str, *names: str, panel: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


_SERVE, _ASK, _OUT = "What serves", "What is asked", "Output"

MODEL = Annotated[
    str | None, _option("Model: Org/Name, or path of a config.json.", "--model", panel=_SERVE)
]
HARDWARE = Annotated[
    str | None, _option("Hardware profile: name or path.", "--hardware", panel=_SERVE)
]
TENSOR_PARALLEL = Annotated[
    int | None,
    _option("Devices of one replica.", "--tensor-parallel-size", "--tp", panel=_SERVE),
]
REPLICAS = Annotated[int | None, _option("Replicas behind a router.", "--replicas", panel=_SERVE)]
WEIGHT_DTYPE = Annotated[
    str | None, _option("Other dtype of the weights, such as fp8.", "--weight-dtype", panel=_SERVE)
]
KV_CACHE_DTYPE = Annotated[
    str | None, _option("Other dtype of the KV cache.", "--kv-cache-dtype", panel=_SERVE)
]
CALIBRATION = Annotated[
    str | None,
    _option("Calibration file, or 'datasheet' for the bound.", "--calibration", panel=_SERVE),
]
USD_PER_HOUR = Annotated[
    float | None, _option("Price of one device instead.", "--usd-per-hour", panel=_SERVE)
]
MAX_NUM_SEQS = Annotated[
    int | None, _option("Most running requests of a replica.", "--max-num-seqs", panel=_SERVE)
]
MAX_NUM_BATCHED_TOKENS = Annotated[
    int | None, _option("Token budget of a step.", "--max-num-batched-tokens", panel=_SERVE)
]
SCORER_MODEL = Annotated[
    str | None,
    _option("Model of the scorer (default: the generator's).", "--scorer-model", panel=_SERVE),
]
SCORER_HARDWARE = Annotated[
    str | None,
    _option("Hardware of the scorer (default: the same).", "--scorer-hardware", panel=_SERVE),
]
SCORER_TENSOR_PARALLEL = Annotated[
    int | None,
    _option("Devices of one scorer (default: 1).", "--scorer-tensor-parallel-size", "--scorer-tp",
            panel=_SERVE),
]  # fmt: skip
SCORER_PLACEMENT = Annotated[
    str | None,
    _option("own_device, colocated or same_engine.", "--scorer-placement", panel=_SERVE),
]
TRACE = Annotated[
    str | None,
    _option("Questions: bundled name or file (see `ttcsim traces`).", "--trace", panel=_ASK),
]
QUESTIONS = Annotated[
    int | None,
    _option("Questions asked (default: all of the trace).", "--questions", panel=_ASK),
]
INPUT_LEN = Annotated[
    int | None, _option("Synthetic prompts of this length.", "--input-len", "--isl", panel=_ASK)
]
OUTPUT_LEN = Annotated[
    int | None, _option("Synthetic outputs of this length.", "--output-len", "--osl", panel=_ASK)
]
QUESTION_RATE = Annotated[
    float | None,
    _option("Questions per second.", "--question-rate", "--request-rate", panel=_ASK),
]
BURSTINESS = Annotated[
    float | None,
    _option("Shape of the gamma gaps; 1 is Poisson.", "--burstiness", panel=_ASK),
]
MAX_CONCURRENCY = Annotated[
    int | None,
    _option("Closed loop: questions at a time.", "--max-concurrency", panel=_ASK),
]
SEED = Annotated[int | None, _option("Seed of all draws.", "--seed", panel=_ASK)]
SET = Annotated[
    list[str] | None,
    _option("Any other field, as PATH=VALUE (e.g. generator.engine.watermark=0.01).", "--set",
            panel=_ASK),
]  # fmt: skip
FORMAT = Annotated[str, typer.Option("--format", help="table, json or csv.", rich_help_panel=_OUT)]
OUTPUT = Annotated[Path | None, _option("Folder for tables and plots.", "--output", panel=_OUT)]
REPORT = Annotated[
    Path | None,
    _option("HTML file with tables and interactive charts, for any browser.", "--report",
            panel=_OUT),
]  # fmt: skip
BASELINE = Annotated[
    str | None,
    _option("Strategy that the others are compared with, question by question (default: the"
            " first; given, the differences are printed).", "--baseline", panel=_OUT),
]  # fmt: skip
TABLES = Annotated[
    str, typer.Option("--tables", help="Format of tables in --output: csv or parquet.",
                      rich_help_panel=_OUT)
]  # fmt: skip
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.",
                                     rich_help_panel=_OUT)]  # fmt: skip

_PATHS = {
    "model": "generator.model",
    "hardware": "generator.hardware",
    "tensor_parallel": "generator.tensor_parallel",
    "replicas": "generator.replicas",
    "weight_dtype": "generator.weight_dtype",
    "kv_cache_dtype": "generator.kv_cache_dtype",
    "calibration": "generator.calibration",
    "usd_per_hour": "generator.usd_per_hour",
    "max_num_seqs": "generator.engine.max_num_seqs",
    "max_num_batched_tokens": "generator.engine.max_num_batched_tokens",
    "scorer_model": "scorer.model",
    "scorer_hardware": "scorer.hardware",
    "scorer_tensor_parallel": "scorer.tensor_parallel",
    "scorer_placement": "scorer_placement",
    "trace": "trace",
    "questions": "questions",
    "seed": "seed",
}

Fields = dict[str, Any]


def scenario_fields(file: Path | None, given: Fields) -> Fields:
    """Fields of a scenario: the file's, changed by the options that were given.

    Raises:
        InputError: If the file cannot be read or options contradict each other.
    """
    fields = read_yaml(file) if file else {}
    for name in ("generator", "scorer"):
        if not isinstance(fields.get(name) or {}, dict):
            raise InputError(
                f"{file}: {name}: must be a mapping of fields (found {fields[name]!r})"
            )
    for name, path in _PATHS.items():
        if given.get(name) is not None:
            put(fields, path, given[name])
    _synthetic(fields, given)
    _arrivals(fields, given)
    for item in given.get("set_") or ():
        path, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--set {item}: expected PATH=VALUE")
        put(fields, path, _value(value))
    if file is None:
        for name in ("model", "hardware"):
            if name not in fields.get("generator", {}):
                raise InputError(f"--{name} is missing (or give a scenario file)")
    return fields


def served_fields(file: Path | None, given: Fields) -> Fields:
    """Fields of a scenario that say what serves, as far as they are given."""
    fields = read_yaml(file) if file else {}
    for name in ("model", "hardware", "tensor_parallel"):
        if given.get(name) is not None:
            put(fields, _PATHS[name], given[name])
    return fields


def _value(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def put(fields: Fields, path: str, value: Any) -> None:
    """Set the field at a dotted path."""
    *parents, last = path.split(".")
    if path in ("generator", "scorer") and not isinstance(value, dict):
        raise InputError(f"--set {path}: it has fields, such as {path}.model")
    for parent in parents:
        inner = fields.setdefault(parent, {})
        if not isinstance(inner, dict):
            inner = fields[parent] = {}
        fields = inner
    fields[last] = value


def _synthetic(fields: Fields, given: Fields) -> None:
    prompt, output = given.get("input_len"), given.get("output_len")
    if prompt is None and output is None:
        return
    if prompt is None or output is None:
        raise InputError("--input-len and --output-len come together")
    if min(prompt, output) < 1:
        raise InputError("--input-len and --output-len must be at least 1")
    if given.get("trace") is not None:
        raise InputError("--trace and --input-len exclude each other")
    fields["trace"] = {
        "questions": given.get("questions") or 100,
        "samples": 1,
        "prompt_tokens": prompt,
        "prompt_sd_log": 0,
        "output_tokens": output,
        "sd_log_between": 0,
        "sd_log_within": 0,
        "max_output_tokens": output,
        "length_accuracy_correlation": 0,
        "answers": False,
    }


def _arrivals(fields: Fields, given: Fields) -> None:
    rate, shape = given.get("question_rate"), given.get("burstiness")
    concurrency = given.get("max_concurrency")
    if rate is not None and concurrency is not None:
        raise InputError("--question-rate and --max-concurrency exclude each other")
    if shape is not None and rate is None:
        raise InputError("--burstiness needs --question-rate")
    if rate is not None:
        poisson = {"kind": "poisson", "rate": rate}
        gamma = {"kind": "gamma", "rate": rate, "burstiness": shape}
        fields["arrivals"] = poisson if shape is None else gamma
    if concurrency is not None:
        fields["arrivals"] = {"kind": "closed_loop", "concurrency": concurrency}


def add_scorer(fields: Fields) -> None:
    """A scorer for which model or hardware is not given takes the generator's.

    One on the generator's devices takes their number too; one of its own gets one device.
    """
    own = fields.get("generator", {})
    scorer = dict(fields.get("scorer") or {})
    taken = ["model", "hardware"]
    if fields.get("scorer_placement") == "colocated":
        taken += ["tensor_parallel", "replicas"]
    for name in taken:
        if name in own:
            scorer.setdefault(name, own[name])
    fields["scorer"] = scorer
