"""How a training ends before its last step."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on, and starting it again unchanged would not help; the text names the remedy."""


class Requeue(BaseException):
    """The process was asked to end and everything is saved: the same command goes on. Like KeyboardInterrupt, no failure."""
