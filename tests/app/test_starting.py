"""What starts imports only what it needs: torchvision, scikit-learn, pandas and others each take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import save_file

from seigh.core.problems import architectures

SLOW = (
    "PIL",
    "alembic",
    "altair",
    "celery",
    "curvlinops",
    "pandas",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "streamlit",
    "torch",
    "torch._dynamo",
    "torchvision",
)

RUN = """
import json, sys, warnings
warnings.simplefilter("ignore")
{before}
try:
    {run}
except SystemExit as end:
    code = end.code
else:
    code = 0
print(json.dumps({{"code": code, "modules": [name for name in {slow} if name in sys.modules]}}))
"""

FIRST_PRODUCT = """
from seigh.core.curvature.operator import CurvatureOperator
def first(self, block):
    raise SystemExit(77)
CurvatureOperator.__matmul__ = first
"""


def imported(run: str, before: str = "") -> tuple[int, set[str]]:
    """Exit code of some code in a process of its own, and what is imported by its end of what is slow."""
    code = RUN.format(run=run, before=before, slow=SLOW)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert "Traceback" not in done.stderr
    return answer["code"], set(answer["modules"])


def command(*arguments: str) -> str:
    return f"from seigh.app.cli import main; main({list(arguments)!r})"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["analyze", "--help"], 0),
        (["analyze", "x.pt", "--architecture", "tanh-mlp", "--metod", "seigh"], 2),
        (["worker", "--concurrency", "0"], 2),
        (["user", "--help"], 0),
        (["no-such-command"], 2),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else None,
)
def test_what_needs_no_network_answers_without_torch_or_database(arguments: Sequence[str], code: int) -> None:
    assert imported(command(*arguments)) == (code, set())


def test_an_analysis_imports_torch_alone_before_its_first_product(tmp_path: Path) -> None:
    save_file(dict(architectures.build("tanh-mlp").state_dict()), tmp_path / "step_7.safetensors")
    arguments = ("analyze", str(tmp_path / "step_7.safetensors"), "--architecture", "tanh-mlp", "--k", "3")
    found = imported(command(*arguments, "--data", "digits", "--samples", "50"), FIRST_PRODUCT)
    assert found == (77, {"torch"})


def test_a_worker_and_its_children_import_what_every_analysis_needs() -> None:
    found = imported("from seigh.tasks import work")  # whose children are forks of it
    assert found == (0, {"celery", "sqlalchemy", "torch"})
