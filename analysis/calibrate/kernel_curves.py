"""Fit the curves of the GPUs' calibrations to kernel measurements.

    python -m ttcsim.analysis.calibrate.kernel_curves DATA [FOLDER]

DATA is `systems/data` of the Python package aiconfigurator-core 0.12.0 (Apache-2.0), FOLDER where
the calibrations are (default: hwprofiles/calibrations). Numbers and errors of the curves are
replaced, everything else in the files stays. Forms are in `hwprofiles/curves.py`; what is minimised
is the relative error, outliers softened. Tables of matrix products and expert layers come from
`kernel_tables.py`, overheads and power from `ttcsim.analysis.published.overheads` and `.power`.
"""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ttcsim.analysis.calibrate.kernel_tables import DEVICES, newest
from ttcsim.hwprofiles.catalogue import load_profile, profile_names
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.model_parts import BYTES_PER_VALUE

Floats = NDArray[np.float64]
Form = Callable[[Floats], Floats]

COMMAND: Final = "python -m ttcsim.analysis.calibrate.kernel_curves"
HEAD_DIM: Final = 128
ALL_REDUCE_BYTES: Final = (4 << 10, 256 << 20)
"""Smallest and largest message of an all-reduce that count: one token of 2048 values is 4 kB."""
CACHED: Final = (0.1, 2.0)
"""KV of decode rows between these multiples of the cache is left out: benchmarks read the same KV
again, so it comes from the cache in part, which it does not when serving."""
GEMM_ROWS, GEMM_LEAST = 8192, 768
"""Most rows and least n and k of matrix products that count."""
BORROWERS: Final = {"b300_sxm": "b200_sxm"}
"""Devices without any measured kernel, and whose curves and tables they borrow."""
PLAIN: Final = (("l40s", "fp8"),)
"""Where the plain form is better than tiles, though the dtype is narrow."""


def fit(form: Form, start: Sequence[float], most: Sequence[float], times: Floats) -> Floats:
    """The parameters for which a form is closest to measured times, by relative error.

    Each is between a 30th of where it starts and the most it can be.
    """
    low, high = np.log(np.asarray(start) / 30), np.log(np.asarray(most))

    def residuals(logs: Floats) -> Floats:
        return form(np.exp(logs)) / times - 1

    found = least_squares(
        residuals, np.log(np.asarray(start)), bounds=(low, high), loss="soft_l1", f_scale=0.1
    )
    return np.asarray(np.exp(found.x), dtype=np.float64)


def error_of(predicted: Floats, times: Floats) -> str:
    """Median and p90 of the absolute relative error, in words."""
    errors = 100 * np.abs(predicted / times - 1)
    return f"median {np.median(errors):.2g} %, p90 {np.percentile(errors, 90):.2g} %"


def joined(a: Floats, b: Floats, exponent: float) -> Floats:
    """(a^p + b^p)^(1/p)"""
    return np.asarray(np.exp(np.logaddexp(exponent * np.log(a), exponent * np.log(b)) / exponent))


def best(rows: pd.DataFrame, sizes: list[str]) -> pd.DataFrame:
    """The fastest kernel for each combination of sizes; `latency` becomes `s`. [s]"""
    table = rows.groupby(sizes)["latency"].min().reset_index()
    table["s"] = 1e-3 * table.pop("latency")
    return table


# -- matrix products -------------------------------------------------------------------------------


def gemm(profile: HardwareProfile, path: Path, dtype: str, kernel: str) -> dict[str, Any]:
    """Curve of matrix products of one dtype."""
    rows = pd.read_parquet(path)
    table = best(rows[rows["gemm_dtype"] == kernel], ["m", "n", "k"])
    tiled = dtype != "bf16" and (profile.name, dtype) not in PLAIN
    large = (table["n"] >= GEMM_LEAST) & (table["k"] >= GEMM_LEAST)
    table = table[large & (table["m"] <= GEMM_ROWS)]
    m, n, k, times = (table[name].to_numpy(float) for name in ("m", "n", "k", "s"))
    width = BYTES_PER_VALUE["nvfp4" if dtype == "fp4" else dtype]
    moved = n * k * width + m * (n + k) * BYTES_PER_VALUE["bf16"]
    memory_s = moved / profile.require("memory.hbm.bytes_per_s")
    peak, units = profile.peak(dtype), profile.require("compute_units")
    tile = np.where(m <= 64, 64.0, 128.0)
    tiles = np.ceil(m / tile) * np.ceil(n / 128)

    def form(p: Floats) -> Floats:
        flops = 2 * k * 128 * tile * (tiles + p[4] * units) if tiled else 2 * m * n * k
        return np.asarray(p[2] + joined(flops / (peak * p[0]), memory_s / p[1], p[3]))

    start, most = [0.7, 0.8, 4e-6, 3.0], [2.0, 1.2, 5e-5, 12.0]
    found = fit(form, [*start, 0.3][: 4 + tiled], [*most, 2.0][: 4 + tiled], times)
    names = ("compute_efficiency", "memory_efficiency", "latency_s", "exponent", "wave")
    return dict(zip(names, found, strict=False)) | {
        "error": error_of(form(found), times) + f" over the {kernel} table"
    }


# -- attention -------------------------------------------------------------------------------------


def _whole(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Rows without a sliding window; some tables know none."""
    windows = rows.get("window_size", pd.Series(0, index=rows.index))
    return windows == 0


def decode_attention(
    profile: HardwareProfile, path: Path, kernel: str = "bfloat16"
) -> dict[str, Any]:
    """Curve of attention over contexts whose KV is of one dtype: one query for each sequence."""
    rows = pd.read_parquet(path)
    rows = rows[
        (rows["head_dim"] == HEAD_DIM)
        & (rows["kv_cache_dtype"] == kernel)
        & _whole(rows)
        & (rows["num_key_value_heads"] < rows["num_heads"])
    ]
    table = best(rows, ["batch_size", "num_heads", "num_key_value_heads", "step"])
    batch, heads = (table[name].to_numpy(float) for name in ("batch_size", "num_key_value_heads"))
    context, times = table["step"].to_numpy(float) + 1, table["s"].to_numpy(float)
    width = BYTES_PER_VALUE["bf16" if kernel == "bfloat16" else kernel]
    moved = batch * heads * context * 2 * HEAD_DIM * width
    shares = moved / profile.require("memory.cache.bytes")
    kept = (shares < CACHED[0]) | (shares > CACHED[1])
    batch, heads, moved, times = batch[kept], heads[kept], moved[kept], times[kept]
    bandwidth = profile.require("memory.hbm.bytes_per_s")

    def form(p: Floats) -> Floats:
        return np.asarray(p[0] + p[2] * batch * heads + moved / (bandwidth * p[1]))

    found = fit(form, [1e-5, 0.85, 2e-8], [1e-4, 1.2, 1e-6], times)
    names = ("latency_s", "memory_efficiency", "sequence_head_s")
    return dict(zip(names, found, strict=True)) | {"error": error_of(form(found), times)}


def prefill_attention(profile: HardwareProfile, path: Path) -> dict[str, Any]:
    """Curve of attention of whole prompts."""
    rows = pd.read_parquet(path)
    rows = rows[
        (rows["head_dim"] == HEAD_DIM)
        & (rows["kv_cache_dtype"] == "bfloat16")
        & _whole(rows)
        & (rows["step"] == 0)
    ]
    table = best(rows, ["batch_size", "num_heads", "num_key_value_heads", "isl"])
    batch, heads, tokens, times = (
        table[name].to_numpy(float) for name in ("batch_size", "num_heads", "isl", "s")
    )
    peak = profile.peak("bf16")

    def form(p: Floats) -> Floats:
        flops = batch * 4 * heads * HEAD_DIM * tokens * (tokens / 2 + p[2])
        return np.asarray(p[0] + flops / (peak * p[1]))

    found = fit(form, [1e-5, 0.6, 300.0], [1e-4, 1.2, 5000.0], times)
    names = ("latency_s", "compute_efficiency", "extra_tokens")
    return dict(zip(names, found, strict=True)) | {"error": error_of(form(found), times)}


# -- all-reduce ------------------------------------------------------------------------------------


def all_reduce(profile: HardwareProfile, path: Path, devices: int) -> dict[str, Any]:
    """Curve of vLLM's own all-reduce inside a CUDA graph.

    The table's `message_size` counts values: vLLM's times of large messages are those of NCCL at
    the same size in half precision, and not in int8.
    """
    rows = pd.read_parquet(path)
    rows = rows[(rows["num_gpus"] == devices) & (rows["backend"] == "vllm_graph")]
    table = best(rows, ["message_size"])
    table["bytes"] = BYTES_PER_VALUE["bf16"] * table["message_size"]
    table = table[table["bytes"].between(*ALL_REDUCE_BYTES)]
    message, times = (table[name].to_numpy(float) for name in ("bytes", "s"))
    rate = profile.require("links.intra_node.bytes_per_s")

    def form(p: Floats) -> Floats:
        return joined(np.full_like(message, p[0]), message / (rate * p[1]), p[2])

    found = fit(form, [5e-6, 0.25, 1.0], [1e-4, 2.0, 4.0], times)
    names = ("latency_s", "link_efficiency", "exponent")
    return dict(zip(names, found, strict=True)) | {"error": error_of(form(found), times)}


# -- files -----------------------------------------------------------------------------------------


def refit(device: str, data: Path, calibration: dict[str, Any]) -> None:
    """Replace the curves in a calibration's plain data."""
    profile = load_profile(device)
    for dtype, kernel in (("bf16", "bfloat16"), ("fp8", "fp8"), ("fp4", "nvfp4")):
        if dtype in calibration["gemm"]:
            path = newest(data, device, "gemm", "gemm_perf")
            put(calibration["gemm"][dtype], gemm(profile, path, dtype, kernel))
    path = newest(data, device, "attention", "generation_attention_perf")
    put(calibration["decode_attention"], decode_attention(profile, path))
    if "decode_attention_fp8" in calibration:
        put(calibration["decode_attention_fp8"], decode_attention(profile, path, "fp8"))
    path = newest(data, device, "attention", "context_attention_perf")
    put(calibration["prefill_attention"], prefill_attention(profile, path))
    path = newest(data, device, "comm", "custom_allreduce_perf")
    for devices, curve in calibration["all_reduce"].items():
        put(curve, all_reduce(profile, path, devices))


def put(group: dict[str, Any], found: Mapping[str, Any], command: str = COMMAND) -> None:
    """Replace numbers by those found, to four digits, and name the command."""
    for name, value in found.items():
        old = group.get(name)
        group[name] = value if isinstance(value, str) else float(f"{value:.4g}")
        print(f"    {name}: {old} -> {group[name]}")
    if command not in group["source"]:
        group["source"] += f" ({command})"


def borrowed(device: str, lender: str, calibration: dict[str, Any]) -> dict[str, Any]:
    """The calibration of a device that borrows everything."""
    found = copy.deepcopy(calibration)
    found["device"] = device
    groups = [found[name] for name in found if name not in ("device", "engine")]
    for group in groups:
        for each in [group] if "source" in group else group.values():
            each.setdefault("borrowed_from", lender)
            each["error"] = "not measured on this device"
    own, theirs = load_profile(device).power, load_profile(lender).power
    found["power"]["idle_w"] = float(own.idle_w)
    for name in ("active_w", "j_per_flop"):
        scaled = found["power"][name] * float(own.max_w) / float(theirs.max_w)
        found["power"][name] = float(f"{scaled:.6g}")
    return found


def follow(calibration: dict[str, Any], folder: Path) -> None:
    """Give borrowed groups their lender's numbers, but power, whose idle part is their own.

    Sorting the logits, as top-p sampling does, reads and writes memory: it takes less time where
    bandwidth is larger.
    """
    for name, groups in calibration.items():
        if not isinstance(groups, dict) or name == "power":
            continue
        for key, group in [(None, groups)] if "source" in groups else groups.items():
            lender = group.get("borrowed_from")
            if lender is None:
                continue
            text = (folder / f"{lender}.yaml").read_text(encoding="utf-8")
            theirs = yaml.safe_load(text)[name]
            theirs = theirs if key is None else theirs[key]
            numbers = {field: x for field, x in theirs.items() if isinstance(x, float)}
            if name == "overheads":
                slower = _bandwidth(lender) / _bandwidth(calibration["device"])
                numbers["logit_s"] = float(f"{slower * numbers['logit_s']:.3g}")
                if "borrowed_from" not in calibration["elementwise"]:
                    del numbers["layer_s"]  # fitted together with the traffic, which is its own
            group.update({field: x for field, x in numbers.items() if field in group})


def _bandwidth(device: str) -> float:
    return load_profile(device).require("memory.hbm.bytes_per_s")


def write_plain(calibration: dict[str, Any], path: Path) -> None:
    text = yaml.safe_dump(calibration, sort_keys=False, width=100, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Fit and write the curves of every device, then the numbers of those that borrow them."""
    data = Path(arguments[0])
    folder = Path(arguments[1] if len(arguments) > 1 else "hwprofiles/calibrations")
    for device in DEVICES:
        path = folder / f"{device}.yaml"
        calibration = yaml.safe_load(path.read_text(encoding="utf-8"))
        print(device)
        refit(device, data, calibration)
        write_plain(calibration, path)
    for path in sorted(folder / f"{name}.yaml" for name in profile_names()):
        if not path.exists():
            continue
        calibration = yaml.safe_load(path.read_text(encoding="utf-8"))
        before = copy.deepcopy(calibration)
        follow(calibration, folder)
        if calibration != before:
            write_plain(calibration, path)
    for device, lender in BORROWERS.items():
        calibration = yaml.safe_load((folder / f"{lender}.yaml").read_text(encoding="utf-8"))
        calibration = borrowed(device, lender, calibration)
        follow(calibration, folder)
        write_plain(calibration, folder / f"{device}.yaml")


if __name__ == "__main__":
    main(sys.argv[1:])
