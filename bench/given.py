"""Former home of :mod:`bench.models.external`, for plugins that import ``NetworkSettings`` from here."""

from bench.models.external import NetworkConfig as NetworkConfig

NetworkSettings = NetworkConfig
"""Former name of :class:`bench.models.external.NetworkConfig`."""
