"""Foundations without a model: errors, registry, seeding, paths, files, digests, locks, memory."""
