"""What is asked of a server beside detections: its health, its models, one small inference. Over HTTP.

Not over gRPC: a call that is given up there can end Triton 2.51.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any

from dynamicdet.errors import ServerError
from dyndet_builder.server.admin import INFERENCE_HEADER, http_headers

_TIMEOUT_S = 2.0
_LOAD_S = 1800.0
_LARGEST = 16 << 20
"""bytes of an answer"""


class TritonApi:
    """A server at `host:port`, its HTTP endpoint. Every method but `ready` raises OSError if it does not answer.

    `admin_key` opens the administrative endpoints of a server that restricts them, `inference_key` inference over HTTP.
    """

    def __init__(self, address: str, *, admin_key: str | None = None, inference_key: str | None = None) -> None:
        self._admin = http_headers(admin_key)
        self._inference = {} if inference_key is None else {INFERENCE_HEADER: inference_key}
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)

    def ready(self) -> bool:
        """Whether the server says that it and its models are ready."""
        try:
            return self.ask("GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def models(self) -> frozenset[str]:
        """Names of the models that are ready."""
        index = self._json("POST", "/v2/repository/index", "its list of models", self._admin)
        return frozenset(entry["name"] for entry in index if entry.get("state") == "READY")

    def config(self, model: str) -> Mapping[str, Any]:
        """The configuration of a model, as Triton completed it. Raises ServerError if it is not ready."""
        config: Mapping[str, Any] = self._json("GET", f"/v2/models/{model}/config", f"the configuration of {model!r}")
        return config

    def load(self, model: str) -> None:
        """Load a model, in explicit mode. Raises ServerError with the server's own words if it cannot."""
        path = f"/v2/repository/models/{model}/load"
        status, answer = self.ask("POST", path, b"{}", headers=self._admin, timeout_s=_LOAD_S)
        if status != 200:
            raise ServerError(f"model {model!r} cannot be loaded: {_reason(answer)}")

    def infer(self, model: str, request: Mapping[str, Any], tensors: bytes, *, timeout_s: float) -> tuple[int, str]:
        """Send a request, its tensors in binary form; the HTTP status and, unless it is 200, the reason."""
        header = json.dumps(request).encode()
        headers = {"Inference-Header-Content-Length": str(len(header)), **self._inference}
        path = f"/v2/models/{model}/infer"
        status, answer = self.ask("POST", path, header + tensors, headers=headers, timeout_s=timeout_s)
        return status, "" if status == 200 else _reason(answer)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> tuple[int, bytes]:
        """Status and body of an HTTP answer, which may have 16 MiB and take `timeout_s`; redirects are not followed."""
        until_s = time.monotonic() + timeout_s
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = bytearray()
            while part := answer.read1(1 << 20):
                content += part
                if len(content) > _LARGEST:
                    raise ConnectionError(f"the answer is larger than {_LARGEST:,} bytes")
                if time.monotonic() > until_s:
                    raise TimeoutError(f"the answer takes more than {timeout_s:.0f} s")
            if answer.length:
                raise ConnectionError("the answer is cut off")
            return answer.status, bytes(content)
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP answer: {error!r}") from error
        finally:
            connection.close()

    def _json(self, method: str, path: str, what: str, headers: Mapping[str, str] | None = None) -> Any:
        status, answer = self.ask(method, path, headers=headers)
        if status != 200:
            raise ServerError(f"the server does not tell {what}: {_reason(answer)}")
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ServerError(f"the server does not tell {what}: {_reason(answer)}") from error


def _reason(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]).strip().partition("\n")[0]
    except (ValueError, KeyError, TypeError, RecursionError):
        return answer[:200].decode(errors="replace").strip() or "no reason given"
