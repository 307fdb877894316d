"""Sends requests through the caller's httpx.AsyncClient."""

from __future__ import annotations

import aiohttp
import httpx

from ..errors import LiveAvatarConnectionError
from . import _httpx
from ._aiohttp import AiohttpTransport
from ._asyncio import AsyncTransport, Attempt
from ._base import Request, Response


class HttpxTransport(AsyncTransport):
    """Sends requests through the caller's httpx.AsyncClient."""

    owns_pool = False
    errors = (*_httpx.ERRORS, aiohttp.ClientError)  # the client's transport may be one over aiohttp

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._base_url = base_url
        self._client = client

    async def _exchange(self, attempt: Attempt) -> None:
        request = attempt.request
        _httpx.ensure_open(request, self._client)
        # Disable the caller's auth and redirects: only our credential is sent, and only to the base URL.
        prepared = _httpx.build_request(request)
        prepared.extensions["trace"] = _httpx.async_trace(request, attempt.extend_to_new)
        try:
            incoming = await self._client.send(prepared, stream=True, auth=None, follow_redirects=False)
        except httpx.HTTPStatusError as error:
            incoming = _httpx.response_of(error, prepared)
        except httpx.RequestError as error:
            # If a hook has raised the error of another request, ours may have been sent.
            request.sent |= _httpx.is_of_another_request(error, prepared)
            raise
        try:
            _httpx.discard_cookies(self._client, incoming)
            response = attempt.response = Response(incoming.status_code, incoming.headers)
            if incoming.is_stream_consumed:  # an event hook of the caller's client has read the body
                response.feed(incoming.content)
            elif not response.unreadable:
                async for chunk in incoming.aiter_raw():
                    if not response.feed(chunk):
                        break
            if _httpx.has_trailing_data(incoming.stream):
                await incoming.extensions["network_stream"].aclose()
        finally:
            await incoming.aclose()

    def _to_connection_error(
        self, request: Request, error: Exception, active: BaseException | None
    ) -> LiveAvatarConnectionError:
        return _httpx.to_connection_error(request, error, active)

    def is_closed(self) -> bool:
        """Return whether the caller has closed the client."""
        return self._client.is_closed

    def spare(self) -> AsyncTransport:
        return AiohttpTransport(self._base_url, None, is_spare=True)

    async def close(self) -> None:
        """Do nothing: the client belongs to the caller."""
