"""A network from a file, computed for the first time: in a process of its own that may die.

``python -m seigh.core.problems.graphs.trial FILE NAME`` reads the file, takes from itself what computing does
not need (``seigh.core.reading.confinement``), and measures that the network gives every sample the same
outputs alone and among others, in float64. Operations get whatever numbers a file has, and torch's kernels
have crashed on odd ones before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seigh.core import processes
from seigh.core.device import machine_memory
from seigh.core.errors import first_line
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.reading.words import Limits, shown

if TYPE_CHECKING:
    from seigh.core.problems.graphs.program import Program

# What the process is told: no addresses and no passwords.
_ENVIRONMENT = (
    "PATH",
    "PYTHON",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SEIGH_READING",
)

_SECONDS = 120
_STARTING = 60
_LEAST_MEMORY = 2 * 2**30
_SAMPLES = 3
# Outputs in float64 of the same sample in two batches differ by rounding.
_TOLERANCE = 1e-9


def tried(path: Path, name: str) -> None:
    """Let a process of its own compute a network.

    Args:
        path: The file.
        name: What it is called in refusals.

    Raises:
        Unfit: If it cannot be computed, takes too long, crashes, or makes a sample's outputs depend on
            others.
    """
    command = processes.ours("seigh.core.problems.graphs.trial", str(path), name)
    environment = {key: value for key, value in os.environ.items() if key.startswith(_ENVIRONMENT)}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_STARTING + 2 * _SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unfit(_too_long(name)) from error
    if done.returncode == -signal.SIGXCPU:
        raise Unfit(_too_long(name))
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        raise Unfit(
            f"The network of '{name}' ends the process that computes it; export it again, with seigh.export."
        ) from error
    if said["refusal"] is not None:
        raise Unfit(str(said["refusal"]))


def _too_long(name: str) -> str:
    return f"The network of '{name}' takes more than {_SECONDS} s for {_SAMPLES} samples; use a smaller one."


def main(path: str, name: str) -> None:
    """Say in JSON why a network is refused, or null."""
    import torch

    from seigh.core.problems.graphs.files import read
    from seigh.core.reading import confinement

    torch.set_num_threads(1)
    torch.zeros(2, 2, dtype=torch.float64) @ torch.zeros(2, 2, dtype=torch.float64)  # what is loaded late
    refusal: str | None = None
    try:
        program = read(Path(path), name).program
        confinement.confine(Limits(max(_LEAST_MEMORY, machine_memory() // 2), _SECONDS, 2**26))
        refusal = refusal_of(program)
    except Unfit as error:
        refusal = str(error)
    sys.stdout.write(json.dumps({"refusal": refusal}))


def refusal_of(program: Program) -> str | None:
    """Compute a network for a few samples, here and now; why it cannot be used, if it cannot."""
    try:
        _compare(program)
    except Unfit as error:
        return str(error)
    except MemoryError:
        return (
            f"The network takes more memory than this machine has for {_SAMPLES} samples; use a smaller one."
        )
    except Exception as error:  # operations fail in every way there is
        why = shown(first_line(error))
        return f"The network cannot be computed ({why}); export it again, with seigh.export."
    return None


def _compare(program: Program) -> None:
    import torch
    from torch import Tensor

    from seigh.core.problems.graphs.network import ExportedNetwork
    from seigh.core.problems.outputs import logits

    with torch.no_grad():
        model = ExportedNetwork(program).eval().double()
        generator = torch.Generator().manual_seed(0)
        for each in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            each += 0.01 * torch.randn(each.shape, generator=generator, dtype=each.dtype).abs()
        shape = (_SAMPLES, *program.sample)
        x = torch.randint(0, 2, shape, generator=generator).to(program.dtype)
        if program.dtype.is_floating_point:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)

        def outputs(samples: Tensor) -> Tensor:
            found = model(samples)
            return found if isinstance(found, Tensor) else logits(found, len(samples))

        together = outputs(x)
        if together.ndim == 0 or len(together) != _SAMPLES:
            raise Unfit(
                f"The network gives outputs of shape {tuple(together.shape)} for {_SAMPLES} samples; let it "
                "return one row for each sample, (N, …)."
            )
        alone = torch.cat([outputs(x[each : each + 1]) for each in range(len(x))])
        scale = float(together.abs().max())
        if not float((together - alone).abs().max()) <= _TOLERANCE * max(scale, 1e-30):
            raise Unfit(
                "The network gives a sample other outputs among other samples than alone, so the loss is no "
                "mean over samples; leave out what mixes them, such as statistics of the batch, and export "
                "it with seigh.export, which has the number of samples free."
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
