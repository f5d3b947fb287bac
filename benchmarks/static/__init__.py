"""Judges kernels without a GPU: compiles them for many targets, reads what came out, and applies rules.

`python -m benchmarks.compile_report` prints it. In the order in which a kernel goes through, and in which a module
knows those above it:

    targets.py    the GPUs
    calls.py      what a room says about itself: its module, the calls of its launchers, its streaming loops
    rooms/        the rooms: one file each, with its real configurations
    recording.py  what a call would launch, noted on fake tensors
    compiling.py  a noted launch through Triton's own specialisation and compiler
    assembly.py   registers, spills and shared memory, the widths of loads and stores, how sums over lanes add
    rules.py      what makes the report fail
    row.py        all of that for one launch and one target: a line of the table
    jobs.py       all launches for all targets, by several processes

A new room is a file in `rooms/` and a line in its `ROOMS`. A new rule is a function in `rules.py`.
"""
