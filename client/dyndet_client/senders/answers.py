"""Triton's asyncio client for HTTP, for servers that may be hostile: no redirects, and bounded answers.

Triton's own client follows redirects, to any host and with all headers, and reads answers of any length.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

LARGEST_TENSORS = 256 << 20
"""bytes of an answer with tensors, also unpacked; thousands of detections for each of a thousand images"""
LARGEST_JSON = 4 << 20
"""bytes of JSON, also unpacked; its lists and texts take some 30 times as much in memory"""

_PACKED = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LENGTH_OF_JSON = "Inference-Header-Content-Length"
_REDIRECTS = range(300, 400)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as Triton's client uses it: whole, unpacked and within the limits."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    async def read(self) -> bytes:
        """The content."""
        return self.content


class BoundedClient(InferenceServerClient):  # type: ignore[misc]
    """Triton's client; its calls raise InferenceServerException for redirects and for answers beyond the limits."""

    async def _get(self, request_uri: str, headers: Mapping[str, str], query_params: Any) -> Answer:
        return await self._ask("GET", request_uri, headers, query_params)

    async def _post(self, request_uri: str, request_body: Any, headers: Mapping[str, str], query_params: Any) -> Answer:
        return await self._ask("POST", request_uri, headers, query_params, request_body)

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], query: Any, content: str | bytes | None = None
    ) -> Answer:
        response = await self._stub.request(
            method,
            f"{self._url}/{path}",
            params=query,
            data=content.encode() if isinstance(content, str) else content,
            headers=self._fix_header(headers),
            allow_redirects=False,
        )
        try:
            if response.status in _REDIRECTS:
                raise _failure(
                    f"it answers with a redirect, HTTP status {response.status}, which is not followed; give the "
                    "address that it leads to"
                )
            return await _read(response)
        except BaseException:
            response.close()
            raise


async def _read(response: Any) -> Answer:
    length_of_json = response.headers.get(_LENGTH_OF_JSON)
    largest = LARGEST_JSON
    if length_of_json is not None and response.status == 200:
        if not (length_of_json.isascii() and length_of_json.isdigit() and len(length_of_json) < 10):
            raise _failure("the answer is not from Triton's HTTP endpoint")
        if int(length_of_json) > LARGEST_JSON:
            raise _too_large(LARGEST_JSON)
        largest = LARGEST_TENSORS
    received = bytearray()
    async for piece in response.content.iter_chunked(1 << 20):
        received += piece
        if len(received) > largest:
            raise _too_large(largest)
    content = _unpacked(bytes(received), response.headers.get("Content-Encoding", ""), largest)
    headers = {_LENGTH_OF_JSON: length_of_json} if length_of_json is not None else {}
    return Answer(response.status, headers, content)


def _unpacked(content: bytes, encoding: str, largest: int) -> bytes:
    if encoding.lower() not in _PACKED:
        return content  # if it is packed in another way, it is not JSON
    unpacker = zlib.decompressobj(_PACKED[encoding.lower()])
    try:
        unpacked = unpacker.decompress(content, largest + 1)
    except zlib.error as error:
        raise _failure("the answer cannot be unpacked") from error
    if len(unpacked) > largest:
        raise _too_large(largest)
    if not unpacker.eof:
        raise _failure("the answer cannot be unpacked")
    return unpacked


def _too_large(largest: int) -> InferenceServerException:
    return _failure(f"the answer is larger than {largest:,} bytes")


def _failure(reason: str) -> InferenceServerException:
    """An error that another attempt would only repeat."""
    return InferenceServerException(reason, status="INTERNAL")
