"""Make the tables of matrix products and of expert layers from kernel measurements.

    python -m ttcsim.analysis.calibrate.kernel_tables DATA [FOLDER]

DATA is `systems/data` of the Python package aiconfigurator-core 0.12.0 (Apache-2.0), FOLDER where
the tables go (default: hwprofiles/calibrations). Of several kernels for one product the fastest
counts, as an engine picks it. Sizes are thinned where neighbours lie on a line. Where more rows
were measured to take less time, the times are levelled out: no step gets faster with more in it.
"""

import csv
import gzip
import io
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from ttcsim.hwprofiles.catalogue import engine_path
from ttcsim.hwprofiles.experts import KERNELS

Floats = NDArray[np.float64]

DEVICES = ("a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000_server")
OLDER_ENGINE = "0.11"
"""An older vLLM, of published chats."""
OLDER = {"b200_sxm": "0.19.0"}
"""Devices with a table of expert layers for it as well, and the vLLM that the table is of."""
OLDER_KERNEL = "bfloat16"
"""The one dtype that is taken from the older table: in bf16 vLLM 0.24 takes FlashInfer's kernels on
a B200, and 0.11 took Triton's, which the table of 0.19 has. It has Triton's for narrower weights,
too, but with those, chats in fp8 are predicted worse."""

# -- matrix products -------------------------------------------------------------------------------

GEMM_KERNELS = ("bfloat16", "fp8", "nvfp4")
ROWS = (
    1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768,
    1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384,
)  # fmt: skip
"""Numbers of rows to keep."""
LEAST_SIZE = 512
"""Narrower matrices are left out: they take little time, and the edge of the grid stands for
them."""
SPIKE = 1.25
"""A time so many times those at both neighbouring numbers of rows was disturbed."""


def gemm_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """(header, rows): kernel, n, k, then microseconds by number of rows."""
    found = pd.read_parquet(path)
    kept = found[(found["n"] >= LEAST_SIZE) & (found["k"] >= LEAST_SIZE)]
    have = set(kept["m"])
    sizes = [m for m in ROWS if m in have]
    rows: list[list[Any]] = []
    for kernel in GEMM_KERNELS:
        own = _despiked(kept[kept["gemm_dtype"] == kernel])
        if len(own):
            rows += _filled(kernel, own[own["m"].isin(sizes)], sizes)
    return ["kernel", "n", "k", *map(str, sizes)], rows


def _despiked(own: pd.DataFrame) -> pd.DataFrame:
    """The fastest time of each size, disturbed ones replaced by the larger neighbour's."""
    best = own.groupby(["n", "k", "m"])["latency"].min().reset_index()
    products = best.groupby(["n", "k"])["latency"]
    beside = np.fmax(products.shift(1), products.shift(-1))
    inside = products.shift(1).notna() & products.shift(-1).notna()
    spike = inside & (best["latency"] > SPIKE * beside)
    best["latency"] = best["latency"].where(~spike, beside)
    return best


def _filled(kernel: str, own: pd.DataFrame, sizes: Sequence[int]) -> list[list[Any]]:
    """A full grid: what was not measured (0.3 %) lies midway between its neighbours in n, or k."""
    best = own.set_index(["n", "k", "m"])["latency"]
    n, k = sorted(set(own["n"])), sorted(set(own["k"]))
    full = best.reindex(pd.MultiIndex.from_product([n, k, sizes])).to_numpy(dtype=float)
    cube = np.log(1e3 * full.reshape(len(n), len(k), len(sizes)))
    for axis in (0, 1, 2):
        cube = _interpolated(cube, axis)
    cube = np.apply_along_axis(_rising, 2, cube)
    return [
        [kernel, n[i], k[j], *(f"{value:.4g}" for value in np.exp(cube[i, j]))]
        for i in range(len(n))
        for j in range(len(k))
    ]


def _rising(logs: Floats) -> Floats:
    """The nearest logarithms of times that never fall as rows become more.

    A single row stays out of it where it has a much slower kernel of its own.
    """
    own = int(logs[0] > logs[1] + math.log(SPIKE))
    return np.concatenate([logs[:own], isotonic_regression(logs[own:]).x])


def _interpolated(cube: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    moved = np.moveaxis(cube, axis, 0)
    flat = pd.DataFrame(moved.reshape(moved.shape[0], -1))
    done = flat.interpolate(axis=0, limit_direction="both").to_numpy()
    return np.moveaxis(done.reshape(moved.shape), 0, axis)


# -- expert layers ---------------------------------------------------------------------------------

ROUTING = "power_law_1.01"
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192, 16384)
MOST_DEVICES = 16
COLUMNS = {
    "moe_dtype": "dtype",
    "hidden_size": "hidden",
    "inter_size": "intermediate",
    "num_experts": "experts",
    "topk": "top_k",
    "moe_tp_size": "tp",
    "moe_ep_size": "ep",
    "num_tokens": "tokens",
}


def expert_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """(header, rows): a row a kernel, shape and number of tokens."""
    rows = pd.read_parquet(path).rename(columns=COLUMNS)
    kernels = {kernel for each in KERNELS.values() for kernel in each}
    kept = rows[
        (rows["distribution"] == ROUTING)
        & rows["tokens"].isin(TOKENS)
        & (rows["tp"] * rows["ep"] <= MOST_DEVICES)
        & rows["dtype"].isin(kernels)
    ]
    names = list(COLUMNS.values())
    table = pd.DataFrame(kept.groupby(names)["latency"].min().reset_index())
    table["us"] = (1e3 * table.pop("latency")).map("{:.4g}".format)
    return [*names, "us"], table.to_numpy().tolist()


def older_experts(device: str) -> str:
    """File name of the table for an older vLLM."""
    return f"{engine_path(Path(), device, OLDER_ENGINE).stem}_experts.csv.gz"


def older_expert_table(data: Path, device: str) -> tuple[list[str], list[list[Any]]]:
    """The table for an older vLLM: its kernel, and the newest ones for all other data types."""
    path = data / device / "moe" / "vllm" / OLDER[device] / "moe_perf.parquet"
    header, rows = expert_table(path)
    _, newer = expert_table(newest(data, device, "moe", "moe_perf"))
    rows = [row for row in rows if row[0] == OLDER_KERNEL]
    return header, rows + [row for row in newer if row[0] != OLDER_KERNEL]


# -- files -----------------------------------------------------------------------------------------


def newest(data: Path, device: str, kind: str, name: str) -> Path:
    """The table of a kind from the newest version of vLLM."""
    found = (data / device / kind / "vllm").glob(f"*/{name}.parquet")
    return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".")])


def write_table(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Gzipped CSV, the same bytes for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def main(arguments: list[str]) -> None:
    """Write both tables of every device, and those for older engines."""
    data = Path(arguments[0])
    folder = Path(arguments[1] if len(arguments) > 1 else "hwprofiles/calibrations")
    for device in DEVICES:
        for kind, name, make in (("gemm", "gemms", gemm_table), ("moe", "experts", expert_table)):
            path = newest(data, device, kind, f"{kind}_perf")
            header, rows = make(path)
            write_table(header, rows, folder / f"{device}_{name}.csv.gz")
            print(f"{device} {name}: {len(rows)} rows from vLLM {path.parent.name}")
    for device, version in OLDER.items():
        header, rows = older_expert_table(data, device)
        write_table(header, rows, folder / older_experts(device))
        print(f"{device} experts for vLLM {OLDER_ENGINE}: {len(rows)} rows, bf16 from {version}")


if __name__ == "__main__":
    main(sys.argv[1:])
