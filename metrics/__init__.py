"""What is measured: one file per metric, the geometry they share (``parts``), and content-free controls."""
