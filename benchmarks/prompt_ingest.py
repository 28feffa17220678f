"""How long a real vLLM server takes from a prompt's arrival to its engine's input, by its length.

    .venv-vllm/bin/python benchmarks/prompt_ingest.py [--repeats N]

A server with a tiny model reads prompts of random tokens, as text (it tokenises them) and as token
ids, one at a time; then bursts of prompts of text. The slope over the length is what the front end
takes for a token of a prompt: tokenising, checking, hashing its blocks. The tokenizer is Mistral's
Tekken (131,072 tokens, byte pairs, as those of most models of today), which comes with vLLM's
dependencies; needs no network.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mistral_common
from tokenizers import Tokenizer
from transformers.integrations.mistral import MistralConverter

ROOT = Path(__file__).resolve().parents[1]
RECORDER = ROOT / "analysis" / "measure" / "recorder"
MODEL = ROOT / "simulator" / "models" / "ttcsim--tiny-10m_config.json"
TEKKEN = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
LENGTHS = (256, 1024, 4096, 8192)
BURST, BURST_TOKENS = 8, 4096
PORT = 8471


def main() -> None:
    """Start the server, send the prompts, print medians and slopes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="prompts of each length and form")
    repeats = parser.parse_args().repeats
    tokenizer = MistralConverter(vocab_file=str(TEKKEN)).converted()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make_model(folder, tokenizer)
        log = folder / "schedule.jsonl"
        server = _start(folder, log)
        try:
            _wait_until_healthy(server)
            sent, bursts = _send(tokenizer, repeats)
        finally:
            server.terminate()
            server.wait(30)
        lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    added = [line for line in lines if line["event"] == "add"]
    added = added[len(added) - len(sent) - BURST * len(bursts) :]  # without those of the warm-up
    taken: dict[str, list[tuple[int, float]]] = {"text": [], "token ids": []}
    for (form, moment), line in zip(sent, added[: len(sent)], strict=True):
        taken[form].append((len(line["prompt"]), line["t"] - moment))
    for form, pairs in taken.items():
        _print(form, pairs)
    last = [
        added[len(sent) + BURST * (number + 1) - 1]["t"] - moment
        for number, moment in enumerate(bursts)
    ]
    print(f"{BURST} x {BURST_TOKENS} tokens of text at once: the last after {_spread(last)}")


def _print(form: str, pairs: list[tuple[int, float]]) -> None:
    for length in LENGTHS:
        found = [(n, seconds) for n, seconds in pairs if abs(n / length - 1) < 0.25]
        tokens = statistics.median([n for n, _ in found])
        print(f"{form:9} {tokens:6.0f} tokens: {_spread([seconds for _, seconds in found])}")
    slope, constant = statistics.linear_regression(*zip(*pairs, strict=True))
    print(f"{form:9} {1e3 * constant:.2f} ms + {1e6 * slope:.2f} us a token")


def _spread(seconds: list[float]) -> str:
    middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
    return f"{1e3 * middle:.2f} ms ({1e3 * least:.2f} to {1e3 * most:.2f})"


def _make_model(folder: Path, tokenizer: Tokenizer) -> None:
    config: dict[str, Any] = json.loads(MODEL.read_text())
    config |= {"vocab_size": 131072, "max_position_embeddings": 16384}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16384}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))


def _start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "PYTHONPATH": str(RECORDER),
        "SCHEDULE_LOG": str(log),
    }
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", "tiny", "--port", str(PORT), "--dtype", "float32"),
        *("--load-format", "dummy", "--enforce-eager", "--max-model-len", "16384"),
        *("--scheduler-cls", "step_recorder.RecordingScheduler"),
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )


def _wait_until_healthy(server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        time.sleep(1)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the server has ended") from None
    raise SystemExit("the server did not become healthy")


def _send(tokenizer: Tokenizer, repeats: int) -> tuple[list[tuple[str, float]], list[float]]:
    """(form, when it was sent) of every prompt, in order; then when each burst was sent."""
    generator = random.Random(0)

    def prompt(length: int, form: str) -> str | list[int]:
        ids = [generator.randrange(1000, 130000) for _ in range(length)]
        return str(tokenizer.decode(ids)) if form == "text" else ids

    sent = []
    for _ in range(repeats):
        for length in LENGTHS:
            for form in ("text", "token ids"):
                body = _body(prompt(length, form))
                sent.append((form, time.monotonic()))
                _complete(body)
    bursts = []
    with ThreadPoolExecutor(BURST) as pool:
        for _ in range(repeats):
            bodies = [_body(prompt(BURST_TOKENS, "text")) for _ in range(BURST)]
            bursts.append(time.monotonic())
            list(pool.map(_complete, bodies))
    return sent, bursts


def _body(prompt: str | list[int]) -> bytes:
    return json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 1}).encode()


def _complete(body: bytes) -> None:
    url = f"http://127.0.0.1:{PORT}/v1/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        response.read()


if __name__ == "__main__":
    main()
