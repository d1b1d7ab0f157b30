"""Split of a classifier into features, average pooling, norm and linear layer, for ``decompose`` and backbones by name.

``trace`` records a forward pass, ``find`` finds the split in it, ``features`` runs it and ``verify`` proves it.
"""
