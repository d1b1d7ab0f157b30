"""Data sets, models, stores and processes that several tests share."""
