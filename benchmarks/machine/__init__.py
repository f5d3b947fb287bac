"""Runs the package's machine code for sm_90 without a GPU, and predicts its times.

No package runs cubins on a CPU, so this does: it disassembles one, writes each instruction in C for the 32 lanes of a
warp, and runs a launch's programs on the memory of CPU tensors. That proves what the compiler and ptxas made of a
kernel, where the interpreter proves what the kernel says. `make machine-code` runs the tests of kernels that way.
Programs run one after the other, in an order drawn at random; memory is as weak as PTX has it (`native/memory.h`), and
special functions are as far off as PTX allows (`native/arithmetic.h`).

In the order in which a launch goes through, and in which a module knows those above it:

    toolchain.py     the C compiler and the disassembler, and what they have made before
    disassembly.py   instructions as text
    writing.py       operands in C
    instructions/    what each instruction computes, in C: an opcode that is met and not known is an error, add it there
    program.py       a kernel as an array of compiled instructions
    launches.py      what a call would launch, compiled for sm_90, with its tensors
    emulator.py      runs a launch, counts what it does, and walks the clock of ptxas' schedule
    native/          the warp, control flow, memory and arithmetic, in C

    counts.py        counts of a launch, by the unit that they keep busy
    model.py         seconds from counts
    predict.py       counts and predicted times of the suites' cases
    validate.py      predicted against measured times

Nothing imports this but its tests and, where they are told to, all tests (`tests/conftest.py`).
"""
