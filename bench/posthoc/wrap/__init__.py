"""Decomposition of a user's classifier: verification, decomposition, storage.

``bench.models.split`` finds the split into features and head; ``feature_store`` gathers the features and reads them
class by class, ``api`` decomposes them, ``classifier`` is the resulting module and ``serialization`` stores it;
``labels`` and ``class_order`` check the labels.
"""
