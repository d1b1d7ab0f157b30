"""What can go wrong, as the harness tells it apart."""

from __future__ import annotations


class BenchError(Exception):
    """Something went wrong that a user can understand and mend; the message says how."""


class RequestError(BenchError):
    """The request itself is wrong: nothing was run. The command line ends with exit code 2."""


class CellError(BenchError):
    """One cell cannot be completed (NaN loss, broken image, ...). It is recorded; the others go on."""


class NotApplicable(CellError):
    """A metric means nothing for this model or this data: it is ``n/a`` with this reason, the others go on."""
