"""The package's logger."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

logger = logging.getLogger("liveavatar")


def log(level: int, text: str, *arguments: object, extra: Mapping[str, object] | None = None) -> None:
    """Log a message, and ignore an exception of the caller's filter or handler: it must not end a cleanup.

    Args:
        level: The level, such as `logging.WARNING`.
        text: The message, with a placeholder for each argument.
        arguments: What the placeholders stand for.
        extra: Attributes of the log record.
    """
    with contextlib.suppress(Exception):
        logger.log(level, text, *arguments, extra=extra, stacklevel=2)
