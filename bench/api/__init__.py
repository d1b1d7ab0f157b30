"""Python interface: the functions and classes that ``import bench`` offers."""
