"""Part-prototypes for a classifier that is already trained: Tan, Zhou and Chen, ICML 2024."""
