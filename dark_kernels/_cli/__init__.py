"""The parts of the command line: commands.py, files.py, picture.py. `dark_kernels.cli` is the way in."""
