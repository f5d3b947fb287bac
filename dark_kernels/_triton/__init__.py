"""Device functions that several kernels share, and what launching them takes. The one package, with each
room's kernels.py, that imports triton."""
