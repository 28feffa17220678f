"""Fit what measured layers show of a device, and of a device with an older engine.

    python -m ttcsim.analysis.calibrate.layer_profiles PROFILES DATA [FOLDER]

PROFILES is `profiler/perf` of LLMServingSim@5daddb2 (MIT): time of each operator of one layer by
tokens, vLLM 0.19.0, eager. DATA and FOLDER are those of `kernel_curves.py`, which comes first.
Writes `elementwise.traffic` of each device, as `overheads.layer_s` what does not grow with tokens,
and `mixed_attention`, which devices with the same kernels borrow; and the calibration of each with
vLLM 0.19: an overhead of a sequence as published rows of that engine have it, and on the RTX PRO
6000 its all-reduces, and decode attention as in the layers.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from ttcsim.analysis.calibrate.kernel_curves import (
    HEAD_DIM,
    all_reduce,
    error_of,
    fit,
    put,
    write_plain,
)
from ttcsim.analysis.calibrate.kernel_tables import DEVICES as KERNEL_DEVICES
from ttcsim.analysis.published.served import PUBLIC
from ttcsim.hwprofiles.catalogue import engine_path, load_profile
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.model_parts import BYTES_PER_VALUE

Floats = NDArray[np.float64]

COMMAND: Final = "python -m ttcsim.analysis.calibrate.layer_profiles"
DEVICES: Final = {"RTX4090": "rtx_4090", "RTXPRO6000": "rtx_pro_6000_server"}
OPERATORS: Final = {"act_fn": 1, "layernorm": 2, "rotary_emb": 1, "qk_norm": 1}
"""How often a layer runs each."""
ENGINE: Final = "0.19.0"
"""The vLLM of the layers, which gets calibrations of its own: all-reduces over PCIe became faster
after it."""
MIXED_BORROWERS: Final = {"a100_sxm": "rtx_pro_6000_server", "l40s": "rtx_4090"}
"""Devices that run FlashAttention 2, too, and whose number of rows they borrow."""


def dense_layers(profiles: Path, device: str) -> Iterator[tuple[Path, Architecture, int]]:
    """(folder, model, tensor-parallel size) of every profile of a dense model."""
    for folder in sorted((profiles / device).glob("*/*/bf16/tp*")):
        model = load_model("/".join(folder.parts[-4:-2]))
        if model.feed_forward.routed is None:
            yield folder, model, int(folder.name.removeprefix("tp"))


# -- elementwise operators -------------------------------------------------------------------------


def elementwise(profiles: Path, device: str) -> tuple[float, float, str]:
    """(traffic, seconds a layer however few tokens there are, error) that fit all layers."""
    bandwidth = load_profile(DEVICES[device]).require("memory.hbm.bytes_per_s")
    times, nominal = [], []
    for folder, model, tp in dense_layers(profiles, device):
        found = _layer_times(folder / "dense.csv")
        times.append(found.to_numpy(float))
        nominal.append(_moved(model, tp) * found.index.to_numpy(float) / bandwidth)
    measured = np.asarray(np.concatenate(times), dtype=np.float64)
    moved_s = np.asarray(np.concatenate(nominal), dtype=np.float64)
    own = fit(lambda p: p[0] + p[1] * moved_s, [1e-5, 1.0], [1e-4, 10.0], measured)
    error = error_of(own[0] + own[1] * moved_s, measured)
    return float(own[1]), float(own[0]), error


def put_elementwise(profiles: Path, device: str, folder: Path) -> None:
    """Replace traffic and time of a layer in the calibration of a device."""
    traffic, layer_s, error = elementwise(profiles, device)
    path = folder / f"{DEVICES[device]}.yaml"
    calibration = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {"traffic": float(f"{traffic:.3g}"), "error": f"{error}; a few per cent of a step"}
    calibration["elementwise"].update(found)
    calibration["overheads"]["layer_s"] = float(f"{layer_s:.3g}")
    write_plain(calibration, path)
    print(f"{DEVICES[device]}: traffic {traffic:.3g}, {layer_s:.3g} s a layer; {error}")


def _layer_times(path: Path) -> "pd.Series[float]":
    """Seconds of all elementwise operators of a layer, by tokens."""
    rows = pd.read_csv(path).pivot_table(index="tokens", columns="layer", values="time_us")
    names = [name for name in OPERATORS if name in rows]
    return 1e-6 * (rows[names] * [OPERATORS[name] for name in names]).sum(axis=1)


def _moved(model: Architecture, tp: int) -> float:
    """Bytes that a layer's elementwise operators move for a token, as in the cost model."""
    sizes = model.attention
    heads = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim / tp
    values = 8 * model.hidden + 3 * model.feed_forward.intermediate / tp + heads
    return values * BYTES_PER_VALUE[model.dtype]


# -- attention of decoders beside a prompt ---------------------------------------------------------


def mixed_layers(profiles: Path, device: str, prompt: dict[str, Any]) -> pd.DataFrame:
    """Rows of chunks together with decoders, from all layers of a device, in seconds.

    `measured_s`; `chunk_s` and `alone_s`, what the chunk and the decoders took by themselves; and
    for each query row that a decoder counts as, `row_s` on top of the chunk and `lone_s` at least.
    """
    profile = load_profile(DEVICES[device])
    rate = profile.peak("bf16") * prompt["compute_efficiency"]
    found = []
    for folder, model, tp in dense_layers(profiles, device):
        rows = pd.read_csv(folder / "attention.csv")
        chunk, batch = ["prefill_chunk", "kv_prefill"], ["n_decode", "kv_decode"]
        chunks = rows[rows["n_decode"] == 0].set_index(chunk)["time_us"].rename("chunk_us")
        alone = rows[rows["prefill_chunk"] == 0].set_index(batch)["time_us"].rename("alone_us")
        mixed = rows[(rows["prefill_chunk"] > 0) & (rows["kv_decode"] > 0)]
        mixed = mixed.join(chunks, on=chunk, how="inner").join(alone, on=batch, how="inner")
        context = mixed["kv_decode"]
        heads = mixed["n_decode"] * model.attention.heads / tp
        pair_s = 4 * HEAD_DIM / rate
        times = {
            "decoders": mixed["n_decode"],
            "context": context,
            "measured_s": 1e-6 * mixed["time_us"],
            "chunk_s": 1e-6 * mixed["chunk_us"],
            "alone_s": 1e-6 * mixed["alone_us"],
            "row_s": pair_s * heads * (prompt["extra_tokens"] + context),
            "lone_s": pair_s * profile.require("compute_units") * context,
        }
        found.append(pd.DataFrame(times))
    return pd.concat(found)


def mixed_form(rows: pd.DataFrame, decoder_rows: float) -> Floats:
    """What a chunk and decoders take together, as in the cost model. [s]"""
    together = rows["chunk_s"] + decoder_rows * rows["row_s"]
    least = np.maximum(rows["alone_s"], decoder_rows * rows["lone_s"])
    return np.asarray(np.maximum(together, least), dtype=np.float64)


def mixed_attention(rows: pd.DataFrame) -> tuple[float, list[str]]:
    """(query rows that a decoder's one takes the time of, errors: of all, then by decoders)."""
    measured = rows["measured_s"].to_numpy(float)
    found = float(fit(lambda p: mixed_form(rows, p[0]), [64.0], [256.0], measured)[0])
    said = [error_of(mixed_form(rows, found), measured)]
    for few, many in ((1, 4), (8, 64), (128, 128)):
        for short, long in ((1, 2048), (2049, 16384)):
            some = rows[rows["decoders"].between(few, many) & rows["context"].between(short, long)]
            times = some["measured_s"].to_numpy(float)
            bias = float(np.median(mixed_form(some, found) / times - 1))
            said.append(
                f"{few} to {many} decoders, contexts of {short} to {long}:"
                f" {error_of(mixed_form(some, found), times)}, median of all {100 * bias:+.0f} %"
            )
    return found, said


def put_mixed(profiles: Path, device: str, folder: Path) -> None:
    """Write the group into the calibration of a device, and of those that borrow it."""
    own = DEVICES[device]
    path = folder / f"{own}.yaml"
    calibration = yaml.safe_load(path.read_text(encoding="utf-8"))
    layers = mixed_layers(profiles, device, calibration["prefill_attention"])
    rows, errors = mixed_attention(layers)
    group = {
        "decoder_rows": float(f"{rows:.3g}"),
        "source": "LLMServingSim 2.0 layer profiles of dense models, vLLM 0.19.0, eager: attention"
        f" of decoders together with a chunk of prompt ({COMMAND})",
        "error": f"{errors[0]} of both together, the chunk's own time taken as measured",
    }
    print(f"{own}: {rows:.3g} rows a decoder; {errors[0]}", *errors[1:], sep="\n    ")
    calibration["mixed_attention"] = group
    write_plain(calibration, path)
    for borrower, lender in MIXED_BORROWERS.items():
        if lender == own:
            path = folder / f"{borrower}.yaml"
            theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
            lent = {"error": "not measured on this device", "borrowed_from": own}
            theirs["mixed_attention"] = group | lent
            write_plain(theirs, path)


# -- an older engine -------------------------------------------------------------------------------


def decode_attention(profiles: Path, device: str) -> dict[str, Any]:
    """Curve of attention over contexts, from all layers of a device."""
    batches, moved, times = [], [], []
    for folder, model, tp in dense_layers(profiles, device):
        rows = pd.read_csv(folder / "attention.csv")
        rows = rows[(rows["prefill_chunk"] == 0) & (rows["n_decode"] > 0)]
        heads = model.attention.kv_heads_per_rank(tp)
        batches.append(rows["n_decode"].to_numpy(float) * heads)
        tokens = rows["n_decode"].to_numpy(float) * rows["kv_decode"].to_numpy(float)
        moved.append(tokens * heads * 2 * HEAD_DIM * 2.0)
        times.append(1e-6 * rows["time_us"].to_numpy(float))
    batch, bytes_, measured = (np.concatenate(each) for each in (batches, moved, times))
    bandwidth = load_profile(DEVICES[device]).require("memory.hbm.bytes_per_s")

    def form(p: Floats) -> Floats:
        return np.asarray(p[0] + p[2] * batch + bytes_ / (bandwidth * p[1]))

    found = fit(form, [1e-5, 0.85, 2e-8], [1e-4, 1.2, 1e-6], measured)
    names = ("latency_s", "memory_efficiency", "sequence_head_s")
    return dict(zip(names, found, strict=True)) | {
        "source": "LLMServingSim 2.0 layer profiles of dense models, vLLM 0.19.0, eager: decode"
        " attention",
        "error": error_of(form(found), measured),
    }


def older(profiles: Path, data: Path, source: str, folder: Path) -> None:
    """Write the calibration of a device with the engine of the layers."""
    device = DEVICES[source]
    calibration = yaml.safe_load((folder / f"{device}.yaml").read_text(encoding="utf-8"))
    over = calibration["overheads"]
    factor = PUBLIC.overhead_factor
    over["sequence_s"] = float(f"{factor * over['sequence_s']:.3g}")
    over["source"] += (
        f"; sequence_s times {factor:g}, the factor on overheads that published rows of vLLM 0.15"
        " to 0.19 have on other devices (docs/published.md)"
    )
    if device in KERNEL_DEVICES:  # kernels of a newer engine stand in it
        calibration.pop("decode_attention_fp8", None)  # the layers have KV in 16 bit only
        calibration["engine"] = f"vllm {ENGINE} all-reduces and attention, {calibration['engine']}"
        put(calibration["decode_attention"], decode_attention(profiles, source), COMMAND)
        path = data / device / "comm" / "vllm" / ENGINE / "custom_allreduce_perf.parquet"
        for devices in set(calibration["all_reduce"]) & set(pd.read_parquet(path)["num_gpus"]):
            curve = calibration["all_reduce"][devices]
            curve["source"] = curve["source"].replace("vLLM 0.24.0", f"vLLM {ENGINE}")
            put(curve, all_reduce(load_profile(device), path, devices))
    write_plain(calibration, engine_path(folder, device, ENGINE))


def main(arguments: list[str]) -> None:
    """Write what layers show of each device, and its calibration with their engine."""
    profiles, data = Path(arguments[0]), Path(arguments[1])
    folder = Path(arguments[2] if len(arguments) > 2 else "hwprofiles/calibrations")
    for device in DEVICES:
        put_elementwise(profiles, device, folder)
        put_mixed(profiles, device, folder)
        older(profiles, data, device, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
