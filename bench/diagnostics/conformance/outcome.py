"""What became of one check."""

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
    """A part of the contract that is not kept; the message says what was found and what is expected."""


@dataclass(frozen=True)
class Outcome:
    """One line of ``bench check``.

    Attributes:
        kind: ``method`` or ``metric``.
        check: what was looked at.
        problem: what is wrong; ``None``: nothing.
    """

    kind: str
    check: str
    problem: str | None


def attempt(kind: str, title: str, check: Callable[..., T], *arguments: Any) -> tuple[Outcome, T | None]:
    """Run one check, and pass on what it returns; what it raises is a problem of what is checked: anyone's code."""
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
    """Raise :class:`Broken` where the condition does not hold."""
    if not condition:
        raise Broken(problem)


def expect_close(what: str, found: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    """Raise :class:`Broken` where two tensors differ by more than ``atol + rtol |expected|``."""
    expect(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    if not torch.allclose(found, expected, rtol=rtol, atol=atol):
        raise Broken(f"{what} differ by up to {float((found - expected).abs().max()):.3g}")
