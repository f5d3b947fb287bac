"""Defines target maps, for `encode` and for the losses that never store one. Once for each telling: here those of
the references and of eager, in `_triton/targets.py` that of the kernels."""
