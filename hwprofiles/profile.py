"""What a device can do, from its datasheet: one frozen record per device, a source per number."""

import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ttcsim.errors import InputError
from ttcsim.hwprofiles.quantity import Quantity

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryLevel(_Record):
    """One level of memory.

    Parameters
    ----------
    technology : str
        For example ``HBM3``.
    bytes : Quantity
        Capacity. [B]
    bytes_per_s : Quantity or None
        Read bandwidth; for host memory the rate of the link to it, one direction. None if no
        trustworthy figure is known. [B/s]
    """

    technology: str
    bytes: Quantity
    bytes_per_s: Quantity | None = None


class Memory(_Record):
    """Three levels: last cache on the device, main device memory, host memory behind its link.

    ``hbm`` is main device memory whatever its kind (HBM, GDDR, DDR): ``technology`` says which.
    ``host`` holds one device's share of the host's DRAM.
    """

    cache: MemoryLevel
    hbm: MemoryLevel
    host: MemoryLevel


class Link(_Record):
    """A link between devices: nominal bandwidth per device in one direction. [B/s]"""

    technology: str
    bytes_per_s: Quantity


class Links(_Record):
    """Links to devices of the same node and of other nodes; None where there is none."""

    intra_node: Link | None
    inter_node: Link | None


class Power(_Record):
    """Electrical power of one device, idle and at its limit. [W]"""

    idle_w: Quantity
    max_w: Quantity


class Price(_Record):
    """On-demand rental price of one device [USD/h] and the day it was listed."""

    usd_per_hour: Quantity
    date: datetime.date


class HardwareProfile(_Record):
    """Datasheet facts of one device.

    Parameters
    ----------
    name, description, vendor : str
        The name is what a scenario and a calibration call the device.
    kind : {"gpu", "cpu"}
    devices_per_node : int
        Devices that share the ``intra_node`` link.
    compute_units : Quantity
        Streaming multiprocessors of a GPU, cores of a CPU. [1]
    peak_flops_per_s : dict of str to Quantity
        Dense peak (never the sparse figure) by data type. [FLOP/s]
    memory, links, power, price
        See the classes of these names.
    """

    name: str = Field(min_length=1)
    description: str
    vendor: str
    kind: Literal["gpu", "cpu"]
    devices_per_node: int = Field(ge=1)
    compute_units: Quantity
    peak_flops_per_s: dict[Dtype, Quantity]
    memory: Memory
    links: Links
    power: Power
    price: Price

    def peak(self, dtype: str) -> float:
        """Return the dense peak for a data type. [FLOP/s]

        Raises
        ------
        InputError
            If the profile has no peak for it; the message names the field and what there is.
        """
        return self.require(f"peak_flops_per_s.{dtype}")

    def require(self, path: str) -> float:
        """Return the number at a dotted path such as ``memory.cache.bytes_per_s``.

        Raises
        ------
        InputError
            If the number is missing: it is never replaced by a guess.
        """
        here: Any = self
        for part in path.split("."):
            if here is None:
                break
            fields = here if isinstance(here, dict) else dict(here)
            if part not in fields:
                have = ", ".join(sorted(fields))
                raise InputError(f"{self.name}: {path}: missing from the profile (have: {have})")
            here = fields[part]
        if not isinstance(here, int | float):
            raise InputError(
                f"{self.name}: {path}: "
                + ("not known for this device" if here is None else "not a number")
            )
        if here == 0:
            raise InputError(f"{self.name}: {path}: must be above 0")
        return float(here)
