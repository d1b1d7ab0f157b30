"""Former home of :mod:`bench.core.registry`, for plugins that import ``register`` from here."""

from bench.core.registry import register as register
