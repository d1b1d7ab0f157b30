"""Former home of :mod:`bench.models.external`, for plugins that import ``NetworkSettings`` from here."""

from bench.models.external import NetworkSettings as NetworkSettings
