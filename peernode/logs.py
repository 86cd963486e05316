"""A node's log: structured lines on standard error, JSON unless a person is watching.

structlog takes a tenth of a second to import, and a node that starts well has nothing to say: it is
imported with the first line.
"""

import logging
import sys
from functools import cached_property
from typing import Any, Final

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Log:
    """Where a node's parts say what happened."""

    def __init__(self, level: str) -> None:
        self._level = LEVELS[level]

    def debug(self, event: str, **fields: Any) -> None:
        """Say something for who looks for a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Say what an operator may want to know."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Say what an operator should know."""
        self._write(logging.WARNING, event, fields)

    def failed(self, error: BaseException) -> None:
        """Say that a request ended in a fault of ours, with all that is known of it."""
        self._write(logging.ERROR, "a request failed", {"exc_info": error})

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if level >= self._level:
            self._logger.log(level, event, **fields)

    @cached_property
    def _logger(self) -> Any:
        import structlog

        watched = sys.stderr.isatty()
        # Without the values of variables, which structlog would show: passwords are among them.
        dicts = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                *([] if watched else [structlog.processors.ExceptionRenderer(dicts)]),
                console if watched else structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
        )
