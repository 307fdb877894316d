"""The error that an endpoint raises in place of a result."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error response of the service.

    Attributes:
        status: HTTP status.
        message: the service's message for a human reader.
        violations: where the request is wrong, as ``{"loc", "message"}`` for each place; None for other causes.
        summary: the error in one line that repeats no value of the request, for the log.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        violations: list[dict[str, Any]] | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.violations = violations
        self.headers = headers or {}

    @property
    def summary(self) -> str:
        if not self.violations:
            return self.message
        return f"Invalid request: {', '.join('.'.join(map(str, each['loc'])) for each in self.violations)}"

    @classmethod
    def invalid_request(cls, violations: list[dict[str, Any]]) -> ApiError:
        """Return the error for a request that violates the contract."""
        where = ".".join(map(str, violations[0]["loc"]))
        return cls(422, f"Invalid request: {where}: {violations[0]['message']}", violations)
