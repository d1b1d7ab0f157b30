"""Decomposition of a user's classifier: split into features and head, verification, decomposition, storage.

``trace`` records a forward pass, ``split`` finds the split in it and ``verify`` proves it; ``feature_store`` gathers
the features and reads them class by class, ``api`` decomposes them, ``classifier`` is the resulting module and
``serialization`` stores it; ``labels`` and ``class_order`` check the labels.
"""
