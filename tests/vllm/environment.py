"""What vLLM has to find in the environment when it is imported; import this module before it.

A check on a CPU needs no network, no usage statistics and no log of the start. One thread per
process gives steady steps; without `nobind` vLLM would bind threads to cores itself.
"""

import logging
import os
import warnings

for _name, _value in {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(_name, _value)

logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns before it reads its logging level
warnings.filterwarnings("ignore", category=FutureWarning)
