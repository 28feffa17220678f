"""What a device can do: datasheet profiles and calibrations, every number beside its source."""

from ttcsim.hwprofiles.calibration import Calibration, datasheet
from ttcsim.hwprofiles.catalogue import (
    check_device,
    engine_calibration,
    load_calibration,
    load_profile,
    profile_names,
)
from ttcsim.hwprofiles.curves import (
    DATASHEET,
    AllReduceCurve,
    DecodeAttentionCurve,
    Elementwise,
    GemmCurve,
    MixedAttentionCurve,
    MoeCurve,
    Overheads,
    PowerCurve,
    PrefillAttentionCurve,
)
from ttcsim.hwprofiles.profile import (
    Dtype,
    HardwareProfile,
    Link,
    Links,
    Memory,
    MemoryLevel,
    Power,
    Price,
)
from ttcsim.hwprofiles.quantity import Quantity

__all__ = [
    "DATASHEET",
    "AllReduceCurve",
    "Calibration",
    "DecodeAttentionCurve",
    "Dtype",
    "Elementwise",
    "GemmCurve",
    "HardwareProfile",
    "Link",
    "Links",
    "Memory",
    "MemoryLevel",
    "MixedAttentionCurve",
    "MoeCurve",
    "Overheads",
    "Power",
    "PowerCurve",
    "PrefillAttentionCurve",
    "Price",
    "Quantity",
    "check_device",
    "datasheet",
    "engine_calibration",
    "load_calibration",
    "load_profile",
    "profile_names",
]
