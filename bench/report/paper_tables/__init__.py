"""Tables of Tan et al. (ICML 2024), filled from stored results."""
