"""The mock server as an ASGI app."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Unpack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import _contract
from ._credentials import RateLimit
from ._endpoints import ENDPOINTS, Call, Endpoint
from ._errors import ApiError
from ._http import LoopbackHost, RequestLog, error_response, parse_json, read_body
from ._page import page, sessions_json
from ._settings import Settings, SettingsKeywords
from ._state import State

SUCCESS = 1000
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
_REPORTED_HEADERS = ("Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def create_app(**settings: Unpack[SettingsKeywords]) -> Starlette:
    """Create the mock server as an ASGI app, to run under another server.

    Args:
        **settings: see ``Settings``.

    Raises:
        ValueError: a setting is not valid.
    """
    return MockService(Settings(**settings)).app


class MockService(State):
    """The state of one mock server, and the app that serves it.

    Attributes:
        app: the ASGI app.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._rate_limit = RateLimit(settings)
        self.app = Starlette(
            routes=[
                *self._routes(),
                Route("/", page),
                Route("/sessions.json", partial(sessions_json, self)),
            ],
            middleware=[Middleware(RequestLog), Middleware(LoopbackHost), *self._cors()],
            exception_handlers={ApiError: self._failure, HTTPException: self._failure},
        )

    def _routes(self) -> Iterator[Route]:
        paths: dict[str, dict[str, tuple[Endpoint, _contract.Operation]]] = {}
        for endpoint in ENDPOINTS:
            operation = _contract.operation(endpoint.operation_id)
            paths.setdefault(operation.path, {})[operation.method] = endpoint, operation
        for path, methods in paths.items():
            yield Route(path, partial(self._dispatch, methods), methods=_METHODS)

    def _cors(self) -> list[Middleware]:
        if not self.settings.allow_origins:
            return []
        allowed: dict[str, Any] = {
            "allow_origins": self.settings.allow_origins,
            "allow_methods": ["*"],
            "allow_headers": ["*"],
            "allow_credentials": True,  # the service's web SDK asks for it
            "allow_private_network": True,
            "expose_headers": _REPORTED_HEADERS,
        }
        return [Middleware(CORSMiddleware, **allowed)]

    async def _dispatch(self, methods: dict[str, tuple[Endpoint, _contract.Operation]], request: Request) -> Response:
        if request.method not in methods:
            raise HTTPException(405, headers={"Allow": ", ".join(methods)})
        return await self._handle(*methods[request.method], request)

    async def _handle(self, endpoint: Endpoint, operation: _contract.Operation, request: Request) -> Response:
        self.requests[endpoint.name] += 1
        self._check_rate_limit(request, endpoint.name)
        token_session_id = self.credentials.authenticate(request.headers, operation.credentials)
        request.state.session_id = token_session_id
        raw = await read_body(request)
        given = {"path": request.path_params, "query": request.query_params}
        parameters, found = _contract.read_parameters(operation, given)
        if found:
            raise ApiError.invalid_request(found)
        call = Call(
            url=request.url,
            token_session_id=token_session_id,
            body=self._body(operation, request, raw),
            parameters=parameters,
        )
        request.state.session_id = token_session_id or call.body.get("session_id") or parameters.get("session_id")
        data = endpoint.handle(self, call)
        if isinstance(data, dict) and "session_id" in data:
            request.state.session_id = data["session_id"]
        return self._success(request, operation, data)

    def _body(self, operation: _contract.Operation, request: Request, raw: bytes) -> dict[str, Any]:
        if operation.body is None:
            return {}
        if not raw and operation.default_body is not None:
            return dict(operation.default_body)
        body = parse_json(request, raw)
        found = _contract.violations(operation.body, body)
        if found:
            raise ApiError.invalid_request(found)
        return dict(body)

    def _success(self, request: Request, operation: _contract.Operation, data: Any) -> Response:
        envelope = {"code": SUCCESS, "data": data, "message": "Success"}
        _contract.check(operation.response, envelope)
        return JSONResponse(envelope, operation.status, headers=_rate_limit_headers(request))

    async def _failure(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):  # the path or the method is wrong
            headers = dict(error.headers or {})
            error = ApiError(error.status_code, error.detail, headers=headers)
            try:
                self._check_rate_limit(request, "")
            except ApiError as limited:
                error = limited
        assert isinstance(error, ApiError)
        request.state.error = error.summary
        return error_response(error, _rate_limit_headers(request))

    def _check_rate_limit(self, request: Request, endpoint: str) -> None:
        allowed, request.state.headers = self._rate_limit.count(request.headers, endpoint)
        if not allowed:
            raise ApiError(429, f"Rate limit exceeded: {self.settings.rate_limit} requests per second.")


def _rate_limit_headers(request: Request) -> dict[str, str]:
    return dict(getattr(request.state, "headers", {}))
