"""Make the tables of expert layers from kernel measurements.

    python -m ttcsim.analysis.calibrate.expert_tables DATA [FOLDER]

DATA is `systems/data` of the Python package aiconfigurator-core 0.12.0 (Apache-2.0), FOLDER where
the tables go (default: hwprofiles/calibrations). Kept are layers on up to 16 devices, times with a
power-law routing of exponent 1.01, and every second number of tokens: neighbours are within 5 % of
the line between those that are kept.
"""

import csv
import gzip
import io
import sys
from pathlib import Path

import pandas as pd

from ttcsim.hwprofiles.experts import KERNELS

DEVICES = ("a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000_server")
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


def newest(data: Path, device: str, kind: str, name: str) -> Path:
    """The table of a kind from the newest version of vLLM."""
    found = (data / device / kind / "vllm").glob(f"*/{name}.parquet")
    return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".")])


def expert_table(path: Path) -> pd.DataFrame:
    """Rows to keep, one a shape and number of tokens; the fastest where several kernels ran."""
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
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Gzipped CSV, the same bytes for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.itertuples(index=False))
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def main(arguments: list[str]) -> None:
    data = Path(arguments[0])
    folder = Path(arguments[1] if len(arguments) > 1 else "hwprofiles/calibrations")
    for device in DEVICES:
        path = newest(data, device, "moe", "moe_perf")
        table = expert_table(path)
        write_table(table, folder / f"{device}_experts.csv.gz")
        print(f"{device}: {len(table)} rows from vLLM {path.parent.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
