"""What a run would be, before it is one: its parameters over a mesh, the memory and the operations of its step.

Nothing is allocated, and the devices need not exist: what is described is compiled, if at all, for as many CPU devices
of this process.

    subject      what is inspected: shapes and shardings in place of arrays
    cost         parameters, memory and operations, without compiling
    program      a step as a list of operations, and how each array is split
    estimate     what such a program costs
    compiled     what XLA says of the step
    collectives  what a compiled program says to other devices
"""
