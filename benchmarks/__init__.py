"""Times each operation, its peers and its floor.

Run from the repository root: `python -m benchmarks.run`, `python -m benchmarks.report` and
`python -m benchmarks.compile_report`.
`static/` is what the last of these consists of.
`profile_decode.md` says what the numbers were expected to be.
"""
