"""Outcome of one conformance check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.contract import NotApplicable
from bench.core.interrupts import contained

T = TypeVar("T")


class Broken(Exception):
    """Violation of the contract; the message gives the observed and the expected value."""


@dataclass(frozen=True)
class Outcome:
    """Line of ``bench check``.

    Attributes:
        kind: ``method`` or ``metric``.
        check: title of the check.
        problem: the violation; ``None``: none.
        warning: what breaks no rule and is probably not meant.
    """

    kind: str
    check: str
    problem: str | None
    warning: str = ""


def attempt(kind: str, title: str, check: Callable[..., T], *arguments: Any) -> tuple[Outcome, T | None]:
    """Run one check of foreign code; any exception is a problem of that code.

    Returns:
        The outcome, and the result of the check, or ``None`` after a problem.
    """
    try:
        with contained():
            return Outcome(kind, title, None), check(*arguments)
    except Broken as error:
        return Outcome(kind, title, str(error)), None
    except NotApplicable as error:
        return Outcome(kind, f"{title} (n/a here: {error})", None), None
    except Exception as error:
        text = " ".join(str(error).split())
        return Outcome(kind, title, f"{type(error).__name__}: {text}"[:500]), None


def expect(condition: bool, problem: str) -> None:
    """Raise :class:`Broken` unless the condition holds."""
    if not condition:
        raise Broken(problem)


def expect_close(name: str, value: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    """Raise :class:`Broken` if two tensors differ by more than ``atol + rtol |expected|``."""
    expect(value.shape == expected.shape, f"{name}: shape {tuple(value.shape)} instead of {tuple(expected.shape)}")
    if not torch.allclose(value, expected, rtol=rtol, atol=atol):
        raise Broken(f"{name} differ by up to {float((value - expected).abs().max()):.3g}")
