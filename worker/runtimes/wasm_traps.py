"""Traps of WebAssembly in words."""

from __future__ import annotations

LINES_MAX = 64
"""Most lines of a backtrace. Source: wasmtime gives 20 frames."""


def told(error: BaseException) -> tuple[str, str]:
    """Return what happened in one line, and the backtrace."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    cause = lines[-1].strip() if lines else type(error).__name__
    while cause[:1].isdigit() and ": " in cause:  # "1: wasm trap: ..."
        cause = cause.partition(": ")[2]
    return cause[:1024], "\n".join(line[:200] for line in lines[:LINES_MAX])
