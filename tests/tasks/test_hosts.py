"""A worker on another host, with a network, a name and a home of its own, takes part in a study."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

import benchmarks.stack
from benchmarks.stack import stack
from seigh.core.analysis import analyse
from seigh.core.lab import queries
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings
from seigh.tasks.submit import submit
from tests.conftest import ROOT, wait_until
from tests.forking import begun
from tests.tasks.test_parts import Make

pytestmark = pytest.mark.stack

HERE, THERE = "10.77.213.1", "10.77.213.2"


@contextmanager
def other_host() -> Iterator[list[str]]:
    """What a command that runs there begins with."""
    name, link = f"seigh-{os.getpid()}", f"sg{os.getpid()}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("a network of its own needs root and iproute2")
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"there can be no network of its own: {error.stderr.decode()}")
    try:
        ip("link", "add", f"{link}a", "type", "veth", "peer", "name", f"{link}b", "netns", name)
        ip("addr", "add", f"{HERE}/30", "dev", f"{link}a")
        ip("link", "set", f"{link}a", "up")
        ip("-n", name, "addr", "add", f"{THERE}/30", "dev", f"{link}b")
        ip("-n", name, "link", "set", f"{link}b", "up")
        named = 'hostname elsewhere && cd "$HOME" && exec "$@"'
        yield ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", named, "sh"]
    finally:
        ip("netns", "del", name)  # and the link with it


def test_a_worker_on_another_host_takes_part(
    tmp_path: Path, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.stack, "begin", begun)  # forked, but for the worker over there
    settings = AnalysisSettings(
        architecture="tanh-mlp", data="digits", samples=300, k=30, hvp_path="double-backward", hvp_columns=1
    )
    file = checkpoint()
    home = tmp_path / "elsewhere"
    home.mkdir()
    # Not below pytest's folders: PostgreSQL runs as another user, who may not enter those.
    with (
        other_host() as prefix,
        tempfile.TemporaryDirectory() as folder,
        stack(Path(folder), host=HERE) as running,
    ):
        variables = {"SEIGH_SHARE": "always"}
        there = running.add_worker(
            prefix,
            **variables,
            HOME=str(home),
            TMPDIR=str(home),
            PYTHONPATH=str(ROOT),
            SEIGH_HOME=str(home / "seigh"),
            SEIGH_ARTIFACTS=str(running.env.artifact_folder),
        )
        here = running.add_worker(**variables)
        for worker in (there, here):
            worker.wait()

        def known() -> set[str]:
            with sessions(running.env.database)() as s:
                return set(queries.workers(s)["host"])

        wait_until(lambda: len(known()) == 2 and "elsewhere" in known(), 30, "both are known")
        numbers = submit(
            [file], model_name="mlp", settings=[settings], user="ada", env=running.env
        ).analysis_ids
        numbers += submit(
            [checkpoint(200, 1)],
            model_name="mlp",
            settings=[settings.model_copy(update={"seed": seed}) for seed in range(2)],
            user="ada",
            env=running.env,
        ).analysis_ids

        def ended() -> bool:
            with sessions(running.env.database)() as s:
                return set(s.scalars(select(Analysis.state))) == {State.finished}

        wait_until(ended, 180, "all are finished")
        with sessions(running.env.database)() as s:
            rows = s.scalars(select(Analysis).order_by(Analysis.id)).all()
            conductors = {row.worker.partition(":")[0] for row in rows if row.worker}
            taken_part = {each for row in rows for each in (row.record or {})["shared"]["workers"]}
            values = queries.spectrum(s, numbers[0])["value"].to_numpy()
        assert "elsewhere" in {each.partition(":")[0] for each in taken_part} | conductors
        assert len(taken_part) == 2
        np.testing.assert_allclose(values, analyse(file.path, settings).eigenvalues, rtol=1e-5)
        assert "Traceback" not in there.output + here.output
        # What it needs of its own it has in its own home.
        assert (home / "seigh" / "scratch").is_dir()
