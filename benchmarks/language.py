"""GPT-2 small's shape with random weights: one product, and a whole analysis, with their peak memory.

``python -m benchmarks.language [--products-only] [--tokens 32] [--samples 2] [--k 4] [--memory-gb 1]``

``--small`` compares analyses of small transformers, read from files, with a double loop in float64 instead.

D = 124,439,808 and a vocabulary of 50,257: a vector takes 0.46 GiB, and the outputs of 1,024 tokens 0.19 GiB.
The basis goes to the scratch folder where the memory that it may take is too small.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from seigh.core.analysis import Progress, analyse
from seigh.core.curvature import CurvatureOperator
from seigh.core.problems import architectures
from seigh.core.problems.token_losses import TokenCrossEntropy, next_tokens
from seigh.core.settings import AnalysisSettings, Settings

ARCHITECTURE = "hf/GPT2LMHeadModel"


def peak() -> float:
    """The largest memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident() -> float:
    """The memory of this process now, GiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


class Stages:
    """Prints the stages of an analysis as they end, with the largest memory in each."""

    def __init__(self) -> None:
        self._name, self._hvps, self._peak, self._start = "", 0, 0.0, time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._name:
            self.end()
            self._name, self._start, self._peak = progress.stage, time.perf_counter(), 0.0
        self._hvps = progress.hvps

    def end(self) -> None:
        """Print the stage that ends now."""
        if self._name:
            took = time.perf_counter() - self._start
            print(
                f"{self._name}: {took:.0f} s, {self._hvps} products so far, {self._peak:.1f} GiB", flush=True
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the memory ten times a second."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                self._peak = max(self._peak, resident())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self.end()


def small(k: int) -> None:
    """Print how far small transformers' eigenvalues and overlaps are from the truth, and what was stated."""
    from tests.core.problems.token_networks import CONFIGS, compared

    print("network, matrix, precision: eigenvalues; for k = 1, 2, …: overlap (stated error, gap)")
    for name in CONFIGS:
        for kind in ("hessian", "ggn"):
            for precision in ("float32", "float64"):
                with tempfile.TemporaryDirectory() as folder:
                    found = compared(name, kind, precision, Path(folder), k)
                each = zip(found.overlap, found.stated, found.gaps, strict=True)
                listed = "  ".join(f"{off:.0e} ({stated:.0e}, {gap:.0e})" for off, stated, gap in each)
                print(f"{name}, {kind}, {precision}: {found.eigenvalues:.0e};  {listed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--memory-gb", type=float, default=1.0)
    parser.add_argument("--error-tests", type=int, default=2)
    parser.add_argument("--products-only", action="store_true")
    parser.add_argument("--architecture", default=ARCHITECTURE)
    parser.add_argument("--small", action="store_true")
    chosen = parser.parse_args()
    if chosen.small:
        small(8)
        return
    torch.manual_seed(0)
    model = architectures.build(chosen.architecture)
    vocabulary = architectures.vocabulary(model) or 0
    x = torch.randint(vocabulary, (chosen.samples, chosen.tokens))
    print(
        f"D = {architectures.parameter_count(chosen.architecture):,}; model built, peak {peak():.1f} GiB",
        flush=True,
    )
    operator = CurvatureOperator(
        model, TokenCrossEntropy(), x, next_tokens(x, chosen.tokens), batch_size=1, columns=1
    )
    vector = torch.randn(operator.shape[0], 1)
    start = time.perf_counter()
    product = operator @ vector
    print(
        f"one product: {time.perf_counter() - start:.1f} s, "
        f"|Hv| / |v| = {float(product.norm() / vector.norm()):.3g}, peak {peak():.1f} GiB",
        flush=True,
    )
    if chosen.products_only:
        return
    del operator, vector, product
    with tempfile.TemporaryDirectory() as folder:
        state = {name: each.detach() for name, each in model.named_parameters()}  # each tied weight once
        save_file(state, Path(folder) / "model.safetensors")
        np.savez(Path(folder) / "rows.npz", input_ids=x.numpy())
        del model, state
        settings = AnalysisSettings(
            architecture=chosen.architecture,
            data=str(Path(folder) / "rows.npz"),
            loss="next-token",
            subset="all",
            samples=None,
            k=chosen.k,
            hvp_path="double-backward",
            hvp_columns=1,
            batch_size=chosen.samples,  # one batch, so that the graph of the gradient is kept
            error_tests=chosen.error_tests,
        )
        environment = Settings(memory_gb=chosen.memory_gb, home=Path(folder) / "home")
        stages = Stages()
        with stages.watched():
            found = analyse(
                Path(folder) / "model.safetensors",
                settings,
                environment=environment,
                scratch=Path(folder) / "scratch",
                progress=stages,
            ).to_json()
    facts = {key: found[key] for key in ("parameters", "hvps", "eigenvalues", "residuals", "seconds")}
    print(json.dumps(facts | {"peak_gib": round(peak(), 2)}, indent=1))


if __name__ == "__main__":
    main()
