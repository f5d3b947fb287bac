"""Other packages' entry points, with their arguments and results, on our kernels: one line of a pipeline changes.

`darkpose`, `mmpose`, `supervision` and `transformers` are modules to import by name; none is imported here,
because each may need the package that it stands in for.
"""
