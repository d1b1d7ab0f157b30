"""Data sets on disk, the image protocol that turns their files into network input, and the cache of the result."""
