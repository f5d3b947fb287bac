"""The command `dark-kernels`, also `python -m dark_kernels`. It is `dark_kernels_cli`, which starts without PyTorch."""

from dark_kernels_cli import main

__all__ = ["main"]
