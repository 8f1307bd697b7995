"""Files from anyone, opened in a process that may die.

A file that somebody brings is never parsed in the process that asks for it. ``parent.read`` hands it, as an
open file descriptor, to a warm process of its own (``zygote``), which forks a child for this one file. The
child has limits for memory, CPU time and what it writes, and neither network nor other programs
(``confinement``). It reads the file (``checkpoints`` or ``arrays``) and answers with numbers without any
structure and a description in JSON (``packing``), a format that cannot carry code. What goes wrong in it,
a crash or a limit included, becomes one sentence.

What runs in the child imports neither torch nor the rest of the project, so that the warm process is small,
starts in a fraction of a second, and forks in a millisecond. The exceptions are ``parent``, which runs in the
process that asks, and its ``Refused``.
"""
