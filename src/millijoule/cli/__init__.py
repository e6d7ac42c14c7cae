"""The commands, nothing else: every command parses options, calls one function of a room and prints its result."""

from __future__ import annotations

from millijoule.cli._app import app, main

__all__ = ["app", "main"]
