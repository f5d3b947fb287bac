"""Times each operation, its peers and its floor.

Run from the repository root: `python -m benchmarks.run`, `python -m benchmarks.report`, `python -m benchmarks.accuracy`
and `python -m benchmarks.compile_report`.
`suites/` declares what is timed, `publish/` writes what the second and the third say, `static/` is the last.
`machine/` runs machine code on a CPU and predicts times: `python -m benchmarks.machine.predict`.
`profile_decode.md` says what the numbers were expected to be.
"""
