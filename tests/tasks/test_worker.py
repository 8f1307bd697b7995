"""Real workers on a real Redis: analyses run, and what happens when something dies."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from safetensors.numpy import load_file
from sqlalchemy import func, select, text, update

from seigh.core import analysis
from seigh.core.lab import incidents, queries, store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.keys import content_key
from seigh.core.lab.models import Analysis, Eigenvalue, OverlapPoint, State, now
from seigh.core.lab.queries import AnalysisDetail
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import Upload, retry, send, submit
from tests.conftest import Worker, wait_until

pytestmark = pytest.mark.stack

Make = Callable[..., Upload]
Start = Callable[[int], list[Worker]]

QUICK = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=10)
# Several seconds, most of them in batches of products.
SLOW = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=500, k=320, method="seigh")


def submitted(home: Settings, file: Upload, settings: AnalysisSettings) -> int:
    (number,) = submit([file], model_name="mlp", settings=[settings], user="ada", env=home).analysis_ids
    return number


def detail(home: Settings, number: int) -> AnalysisDetail:
    with sessions(home.database)() as s:
        found = queries.analysis(s, number)
    assert found is not None
    return found


def wait_for(home: Settings, number: int, state: State, seconds: float = 60) -> AnalysisDetail:
    wait_until(lambda: detail(home, number).state == state, seconds, f"analysis {number} is {state}")
    return detail(home, number)


def wait_until_under_way(home: Settings, number: int) -> None:
    wait_until(lambda: detail(home, number).progress > 0.05, 60, f"analysis {number} is under way")


def count(home: Settings, table: Any) -> int:
    with sessions(home.database)() as s:
        return s.execute(select(func.count()).select_from(table)).scalar_one()


def change(home: Settings, **values: Any) -> None:
    with sessions(home.database).begin() as s:
        s.execute(update(Analysis).values(**values))


def stop(home: Settings, worker: Worker) -> None:
    """Stop a worker where it holds no lock of the database, which would keep out everybody."""
    with sessions(home.database).begin() as s:
        s.connection()
        os.killpg(worker.process.pid, signal.SIGSTOP)


def test_an_analysis_goes_from_the_queue_to_its_numbers(
    home: Settings, worker: Worker, checkpoint: Make
) -> None:
    file = checkpoint()
    number = submitted(home, file, QUICK)
    finished = wait_for(home, number, State.finished)
    assert (finished.attempts, finished.progress, finished.message) == (1, 1.0, None)
    assert f"analysis {number}: finished" in worker.output
    assert finished.worker is not None
    assert finished.worker.endswith(f":{worker.process.pid}")

    # The same as without a server, in the same form.
    expected = json.loads(json.dumps(analysis.analyse(file.path, QUICK).to_json()))
    with sessions(home.database)() as s:
        exported = queries.export_result(s, number)
    assert exported.keys() - expected.keys() == {"model", "step"}
    assert exported["seconds"].keys() == expected["seconds"].keys()
    for name in ("parameters", "hvps", "checkpoint_sha256", "data_sha256", "settings", "environment"):
        assert exported[name] == expected[name]
    assert exported["record"].keys() == expected["record"].keys()
    np.testing.assert_allclose(exported["eigenvalues"], expected["eigenvalues"], rtol=1e-4)
    assert [list(point) for point in exported["overlap"]] == [list(point) for point in expected["overlap"]]
    np.testing.assert_allclose(
        [list(point.values()) for point in exported["overlap"]],
        [list(point.values()) for point in expected["overlap"]],
        rtol=1e-2,
        atol=1e-6,
    )

    assert finished.eigenvectors is not None
    arrays = load_file(ArtifactStore(home.artifact_folder).path(finished.eigenvectors))
    vectors = arrays["eigenvectors"]
    assert vectors.shape == (10, 7030)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-4)
    np.testing.assert_array_equal(arrays["eigenvalues"], exported["eigenvalues"])

    # A message too many is no second analysis.
    assert send(Analysis, [number, 999], home) is None
    wait_until(lambda: worker.output.count("nothing to do") == 2, 20, "the worker has looked")
    assert detail(home, number).attempts == 1


def test_a_failure_is_one_sentence_and_can_be_retried(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    file = checkpoint()
    number = submitted(home, file, QUICK)
    stored = ArtifactStore(home.artifact_folder).path(
        content_key("checkpoints", detail(home, number).checkpoint_sha256, ".pt")
    )
    stored.unlink()
    (worker,) = start_workers(1)
    failed = wait_for(home, number, State.failed)
    assert failed.message == (
        "The file of checkpoint 'step_000100.pt' is no longer in the artefact store; submit it again."
    )
    assert "Traceback" not in worker.output  # a user's error, not a bug
    assert count(home, Eigenvalue) == 0

    submitted(home, file, QUICK)  # as the sentence says
    assert wait_for(home, number, State.finished).attempts == 1


def test_a_running_analysis_is_cancelled_quickly(home: Settings, worker: Worker, checkpoint: Make) -> None:
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    start = time.monotonic()
    cancelled = wait_for(home, number, State.cancelled, seconds=10)
    assert time.monotonic() - start < 3
    assert (cancelled.message, count(home, Eigenvalue)) == (None, 0)
    assert list((home.artifact_folder / "eigenvectors").glob("*")) == []
    assert list(home.scratch_folder.iterdir()) == []

    # The worker is free again, and the analysis can be had after all.
    change(home, settings=QUICK.model_dump(mode="json"))
    assert retry(Analysis, number, home) is None
    assert wait_for(home, number, State.finished).cancel_requested is False


# A network that takes a minute for a batch, in many steps of Python.
_SLOW_NETWORK = """
import time
from seigh.core.curvature.operator import CurvatureOperator
multiply = CurvatureOperator.multiply_batch
def slowly(operator, *arguments):
    for _ in range(600 if operator.shape[0] == 7030 else 0):
        time.sleep(0.1)
    return multiply(operator, *arguments)
CurvatureOperator.multiply_batch = slowly
"""


def test_a_cancelled_analysis_of_a_slow_network_is_interrupted_and_its_process_replaced(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    (worker,) = start_workers(1, _SLOW_NETWORK)
    before = worker.children
    number = submitted(home, checkpoint(), QUICK)
    wait_until(lambda: detail(home, number).state == State.running, 60, "it runs")
    time.sleep(2)
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    cancelled = wait_for(home, number, State.cancelled, seconds=8)
    assert cancelled.message is None
    # What the interruption may have left half done is gone with its process.
    wait_until(
        lambda: len(worker.children) == 1 and worker.children != before, 20, "there is another process"
    )
    assert list(home.scratch_folder.iterdir()) == []

    head = QUICK.model_copy(update={"parameters": ("linear6.*",)})
    again = submitted(home, checkpoint(), head)
    assert wait_for(home, again, State.finished).attempts == 1
    assert detail(home, number).attempts == 1


def test_a_killed_worker_leaves_an_analysis_that_the_next_one_finishes_once(
    home: Settings, start_workers: Start, checkpoint: Make, redis_server: redis.Redis
) -> None:
    (first,) = start_workers(1)
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    first.kill()
    assert detail(home, number).state == State.running
    # It may have died at any moment: let it have been over its eigenvectors.
    artifacts = ArtifactStore(home.artifact_folder)
    artifacts.put_arrays("eigenvectors/left-behind", {"eigenvectors": np.zeros(3)}, {})
    change(home, eigenvectors="eigenvectors/left-behind")

    (second,) = start_workers(1)
    finished = wait_for(home, number, State.finished, seconds=90)
    assert finished.attempts == 2
    assert count(home, Eigenvalue) == SLOW.k
    assert count(home, OverlapPoint) == 3 * SLOW.k
    assert len(list((home.artifact_folder / "eigenvectors").glob("*"))) == 1

    # The first message comes back when its visibility timeout is over; nothing happens then.
    # The second one is acknowledged a moment after its analysis has finished.
    wait_until(lambda: redis_server.hlen("unacked") == 1, 20, "the second message is acknowledged")
    (restored,) = (json.loads(message)[0] for message in redis_server.hvals("unacked"))
    redis_server.lpush("seigh", json.dumps(restored))
    wait_until(lambda: "nothing to do" in second.output, 20, "the worker has looked")
    assert (detail(home, number).attempts, count(home, Eigenvalue)) == (2, SLOW.k)


def numbers(home: Settings, number: int) -> tuple[Any, ...]:
    with sessions(home.database)() as s:
        return queries.spectrum(s, number), queries.overlap_curves(s, [number]).drop(
            columns=["analysis_id", "model"]
        )


def test_a_killed_analysis_goes_on_from_its_last_block_to_the_same_numbers(
    home: Settings, start_workers: Start, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEIGH_MEMORY_GB", "0.001")  # too little for the basis, which goes to a file
    settings = AnalysisSettings(
        architecture="tanh-mlp", data="digits", samples=300, k=160, hvp_path="double-backward"
    )
    file = checkpoint()
    (first,) = start_workers(1)
    number = submitted(home, file, settings)
    wait_until(lambda: detail(home, number).progress > 0.4, 120, "analysis is well under way")
    first.kill()
    assert detail(home, number).state == State.running
    assert any((home.scratch_folder / f"analysis-{number}").glob("basis-*"))
    change(home, submitted_at=now() - timedelta(minutes=1))

    start_workers(1)
    resumed = wait_for(home, number, State.finished, seconds=120)
    assert resumed.attempts == 2
    basis = resumed.record["basis"]
    assert basis["kept_in"] == "file"
    assert 0.2 * basis["products"] < basis["resumed"] < basis["products"]

    undisturbed = submit([file], model_name="other", settings=[settings], user="ada", env=home).analysis_ids[
        0
    ]
    other = wait_for(home, undisturbed, State.finished, seconds=120)
    assert other.record["basis"] == basis | {"resumed": 0}
    for one, another in zip(numbers(home, number), numbers(home, undisturbed), strict=True):
        pd.testing.assert_frame_equal(one, another, check_exact=True)
    assert list(home.scratch_folder.iterdir()) == []


def test_a_worker_goes_on_when_its_child_is_killed(
    postgres_home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    home, (worker,) = postgres_home, start_workers(1)
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    (child,) = worker.children
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: worker.children not in ([], [child]), 20, "there is another child")
    change(home, settings=QUICK.model_dump(mode="json"))
    assert wait_for(home, number, State.finished).attempts == 2


def test_a_worker_that_was_stopped_goes_on_with_its_analysis(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    """A laptop's lid, a paused container: it must not declare itself dead."""
    (worker,) = start_workers(1)
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    stop(home, worker)
    time.sleep(12)  # longer than it would be waited for
    change(home, heartbeat_at=now() - timedelta(hours=2))  # and the clock was set meanwhile
    os.killpg(worker.process.pid, signal.SIGCONT)
    assert wait_for(home, number, State.finished, seconds=150).attempts == 1
    assert "workers died" not in worker.output


def test_a_stopped_worker_whose_analysis_was_taken_over_writes_nothing(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    (first,) = start_workers(1)
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    stop(home, first)
    (second,) = start_workers(1)
    wait_until(lambda: "attempt 2" in second.output, 60, "the other one takes over")
    os.killpg(first.process.pid, signal.SIGCONT)
    assert wait_for(home, number, State.finished, seconds=150).attempts == 2
    wait_until(lambda: "belongs to another attempt" in first.output, 20, "the first one has heard of it")
    assert (count(home, Eigenvalue), count(home, OverlapPoint)) == (SLOW.k, 3 * SLOW.k)
    assert len(list((home.artifact_folder / "eigenvectors").glob("*"))) == 1


def envelope(task: Any = "seigh.run", body: Any = None, **properties: Any) -> str:
    """A message as Celery writes it, of whatever task and body."""
    content = [["analysis", 1], {}, {}] if body is None else body
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(content).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": task, "id": "x"},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "seigh"},
                "body_encoding": "base64",
                "delivery_tag": "y",
            }
            | properties,
        }
    )


POISON = [
    "[]",
    "not JSON",
    b"\xff\xfe",
    "{}",
    '{"headers": {}, "properties": {"delivery_tag": []}}',
    envelope(delivery_tag=[]),
    envelope(delivery_info={}),
    envelope(task=[]),
    envelope(task="os.system"),
    envelope(body=[["nonsense"], {}, {}]),
    envelope(body=[[1, "analysis"], {}, {}]),
    envelope(body={}),
    envelope(body=[["no such kind", 1], {}, {}]),
]


def test_malformed_messages_are_set_aside_and_said_and_end_no_worker(
    home: Settings, start_workers: Start, checkpoint: Make, redis_server: redis.Redis
) -> None:
    for message in POISON:
        redis_server.lpush("seigh", message)
    (worker,) = start_workers(1)
    number = submitted(home, checkpoint(), QUICK)
    wait_for(home, number, State.finished)
    for message in POISON[:3]:
        redis_server.lpush("seigh", message)

    def said() -> int:
        with sessions(home.database)() as s:
            return sum(each.times for each in incidents.recent(s))

    wait_until(lambda: said() == len(POISON) + 3, 30, "all of them are said")
    assert worker.process.poll() is None
    assert worker.output.count("is set aside, as ") == len(POISON) + 3
    assert "Traceback" not in worker.output
    assert (redis_server.llen("seigh"), redis_server.hlen("unacked")) == (0, 0)


def test_an_analysis_whose_row_cannot_be_read_is_set_aside(
    home: Settings, start_workers: Start, checkpoint: Make, redis_server: redis.Redis
) -> None:
    number = submitted(home, checkpoint(), QUICK)
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE analysis SET settings = '{'"))
    start_workers(1)

    def ended() -> Any:
        with sessions(home.database)() as s:
            return s.execute(select(Analysis.state, Analysis.message).where(Analysis.id == number)).one()

    wait_until(lambda: ended()[0] == State.failed, 30, "it has failed")
    assert ended()[1].startswith("Unexpected error (JSONDecodeError")


def test_analyses_whose_messages_are_lost_are_found(
    home: Settings, start_workers: Start, checkpoint: Make, redis_server: redis.Redis
) -> None:
    lost = submitted(home, checkpoint(step=100), QUICK)
    redis_server.flushall()
    change(home, submitted_at=now() - timedelta(minutes=1))
    start_workers(1)
    assert wait_for(home, lost, State.finished, seconds=20).attempts == 1

    # Again, with the worker already there, and no message in the first place.
    redis_server.flushall()
    broker_away = home.model_copy(update={"redis_url": "redis://127.0.0.1:9"})
    never_sent = submitted(broker_away, checkpoint(step=200, seed=1), QUICK)
    change(home, submitted_at=now() - timedelta(minutes=1))
    assert wait_for(home, never_sent, State.finished, seconds=20).attempts == 1


def test_a_worker_asked_to_end_hands_its_analysis_back_after_the_batch_in_hand(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    (first,) = start_workers(1)
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(15) == 0
    assert f"analysis {number}: handed back" in first.output
    assert (detail(home, number).state, detail(home, number).attempts) == (State.queued, 0)
    (second,) = start_workers(1)
    assert wait_for(home, number, State.finished).attempts == 1
    assert f"analysis {number}: attempt 1" in second.output


def test_a_worker_told_twice_does_not_wait_for_the_batch(
    home: Settings, start_workers: Callable[..., list[Worker]], checkpoint: Make
) -> None:
    # A batch of a minute.
    (worker,) = start_workers(
        1,
        "import time; from seigh.core import analysis; analysis.eigenpairs = lambda *_, **__: time.sleep(60)",
    )
    number = submitted(home, checkpoint(), QUICK)
    wait_until(lambda: detail(home, number).stage == "eigenpairs", 60, "it is at the batch")
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert worker.process.poll() is None
    assert detail(home, number).state == State.running
    start = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(40)
    assert time.monotonic() - start < 30
    (second,) = start_workers(1)
    change(home, submitted_at=now() - timedelta(minutes=1))
    assert wait_for(home, number, State.finished).attempts <= 2
    assert "finished" in second.output


def test_a_worker_told_to_end_at_once_hands_its_analysis_to_another(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    workers = {worker.process.pid: worker for worker in start_workers(2)}
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    busy = detail(home, number).worker
    assert busy is not None
    first = workers.pop(int(busy.rpartition(":")[2]))
    (second,) = workers.values()
    first.process.send_signal(signal.SIGQUIT)
    first.process.wait(20)
    assert "handed back: analysis 1" in first.output
    wait_until(lambda: "attempt 1" in second.output, 5, "the other worker has it")
    finished = wait_for(home, number, State.finished)
    assert finished.attempts == 1  # the first one's does not count
    assert finished.worker is not None
    assert finished.worker.endswith(f":{second.process.pid}")
