"""A client of vLLM's OpenAI-compatible server: prompts are token ids, lengths are forced.

Only what a measurement needs: which models there are, which version, and streamed completions.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from ttcsim.errors import InputError, unknown_name

_DATA = b"data: "
_DONE = b"[DONE]"


class CallFailedError(RuntimeError):
    """A call that the server did not answer as asked; says how."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New token ids of a completion, and whether they were the last."""

    token_ids: list[int]
    last: bool


class Endpoint:
    """One server and the model that it is asked for.

    Raises (all methods):
        InputError: If the server cannot be used at all.
    """

    def __init__(self, url: str, model: str, session: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._session = session

    async def check(self) -> str:
        """See that server and model are there and take token ids; return the server's version."""
        names = [model["id"] for model in (await self._get("/v1/models")).get("data", [])]
        if self.model not in names:
            raise unknown_name(f"model at {self.url}", self.model, names)
        version = str((await self._get("/version")).get("version", "unknown"))
        try:
            ids = [token async for c in self.complete([5, 6, 7], 2, None) for token in c.token_ids]
        except CallFailedError as error:
            raise InputError(
                f"{self.url}: does not take prompts of token ids, which a measurement needs:"
                f" {error}"
            ) from None
        if len(ids) != 2:
            raise InputError(
                f"{self.url}: does not return token ids, which a measurement needs (vLLM 0.10 or"
                " newer does)"
            )
        return version

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            async with self._session.get(self.url + path) as response:
                if response.status != 200:
                    raise InputError(
                        f"{self.url}{path}: answered {response.status}; is this a vLLM server?"
                    )
                found = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise InputError(f"{self.url}: no vLLM server answers there: {_said(error)}") from None
        return found if isinstance(found, dict) else {}

    async def complete(
        self,
        prompt: list[int],
        tokens: int,
        seed: int | None,
        *,
        salt: str | None = None,
        name: str = "",
    ) -> AsyncIterator[Chunk]:
        """Continue a prompt by exactly `tokens` tokens, drawn at temperature 1.

        Without `seed` the server's own generator draws. With `salt` the prefix cache is shared only
        by calls of the same salt. `name` becomes part of the request's id in the engine. Leaving
        the iteration early closes the stream, which cancels the request.

        Raises:
            CallFailedError: If the server refuses, or the stream ends too early.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
            "detokenize": False,
            "return_token_ids": True,
        }
        if seed is not None:
            body["seed"] = seed
        if salt is not None:
            body["cache_salt"] = salt
        headers = {"X-Request-Id": name} if name else {}
        try:
            url = f"{self.url}/v1/completions"
            async with self._session.post(url, json=body, headers=headers) as response:
                if response.status != 200:
                    said = (await response.text())[:200]
                    raise CallFailedError(f"answered {response.status}: {' '.join(said.split())}")
                async for line in response.content:
                    chunk = _parse(line)
                    if chunk is not None:
                        yield chunk
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise CallFailedError(_said(error)) from None


def _parse(line: bytes) -> Chunk | None:
    """The chunk in a line of a server-sent event stream, if there is one."""
    if not line.startswith(_DATA):
        return None
    data = line[len(_DATA) :].strip()
    if data == _DONE:
        return None
    try:
        event = json.loads(data)
    except ValueError:
        raise CallFailedError(f"streamed something that is not JSON: {data[:80]!r}") from None
    if "error" in event:
        raise CallFailedError(str(event["error"])[:200])
    choices = event.get("choices")
    if not choices:
        return None
    return Chunk(choices[0].get("token_ids") or [], choices[0].get("finish_reason") is not None)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
