"""The decomposition for anyone's classifier: find where features end and the head begins, prove it, decompose, keep.

``tracing`` records a forward pass, ``split`` finds the split in it and ``verify`` proves it; ``gathering`` and
``storage`` bring the features class by class, ``classwise`` decomposes them, ``wrapped`` is the result, ``saved`` and
``gallery`` keep and show it, ``command`` is what the shell calls.
"""
