"""Foundations without a model: errors, registry, seeding, paths, files, digests, locks, memory."""

__version__ = "0.1.0"
