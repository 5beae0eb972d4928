"""The unit of work in any process, and engines: one contract for each of them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from read_helpers import FEEDME

import hybridfit as hf
from hybridfit.data.errors import UsageError
from hybridfit.io.claims import Member
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import Source, find_sources
from hybridfit.pipeline.engine import serial
from hybridfit.pipeline.engine.base import Engine, Run
from hybridfit.pipeline.engine.job import Job, Work
from hybridfit.pipeline.engine.measure import measure
from hybridfit.pipeline.engine.parts import compute_part
from hybridfit.pipeline.engine.serial import SerialEngine
from hybridfit.pipeline.engine.worker import Worker
from hybridfit.pipeline.fit_files import FitWork, fit_files
from hybridfit.pipeline.galfit.rows import table_space
from hybridfit.pipeline.galfit.run import FeedmeWork
from hybridfit.pipeline.galfit.tasks import read_task
from hybridfit.pipeline.options import FileRunOptions, RunOptions
from hybridfit.pipeline.predict import PredictWork
from hybridfit.pipeline.run import run_files
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.pipeline.weights import checked_digest
from hybridfit.simulation.simulate import SimulateOptions

N, PART = 18, 3
QUICK = RunOptions(uncertainty="covariance", initial_values="moments", part_size=PART)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    small = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))
    folder = tmp_path_factory.mktemp("galaxies")
    write_cutouts(hf.simulate(N, 3, small)[0], folder)
    (folder / "sim0004_image.fits").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> bytes:
    """The table of one process."""
    options = hf.FitOptions(compile="off")
    out = tmp_path_factory.mktemp("alone")
    return fit_files(inputs, out, fit=options, run=QUICK).results.read_bytes()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two processes that know nothing of this one."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


@pytest.fixture(scope="module")
def killed(inputs, tmp_path_factory) -> Path:
    """The folder of a run that was killed after some parts."""
    out = tmp_path_factory.mktemp("killed")
    process = started(inputs, out)
    wait_for_parts(out, 2)
    kill(process)
    return out


def fit_work(run: RunOptions = QUICK) -> FitWork:
    digest = "" if run.initial_values == "moments" else checked_digest(None)
    errors = ErrorOptions(run.uncertainty)
    return FitWork(hf.ReadOptions(), run, hf.FitOptions(compile="off"), errors, digest)


def predict_work() -> PredictWork:
    options = hf.PredictOptions(samples=32, save_samples=True)
    return PredictWork(hf.ReadOptions(), FileRunOptions(), options, checked_digest(None))


def job_of(work: Work, sources: list[Source], folder: Path) -> Job:
    return Job.of(work, [source.id for source in sources], folder / "models")


def feedme_job(inputs: Path, folder: Path) -> tuple[Job, list[Source]]:
    found = {}
    for name in ("sim0000", "sim0001"):
        found[name] = inputs / f"{name}.feedme"
        found[name].write_text(FEEDME.format(id=name))
    work = fit_work()
    space = table_space([read_task(id, path) for id, path in found.items()])
    work = FeedmeWork(work.read, work.run, work.fit, work.errors, "", found, space)
    sources = [Source(name, str(path)) for name, path in found.items()]
    return job_of(work, sources, folder), sources


@pytest.mark.parametrize("kind", ["fit", "posterior", "predict", "feedmes"])
def test_the_same_rows_in_a_fresh_process(inputs, tmp_path, pool, kind: str):
    """Everything is in the arguments: pickled, sent, and measured by a process that knows none."""
    sources = find_sources(inputs)[:6]
    if kind == "feedmes":
        job, sources = feedme_job(inputs, tmp_path)
    else:
        works = {
            "fit": fit_work(),
            "posterior": fit_work(RunOptions(uncertainty="posterior")),
            "predict": predict_work(),
        }
        job = job_of(works[kind], sources, tmp_path)
    here = measure(sources, job)
    assert pickle.loads(pickle.dumps(job)) == job
    there = pool.submit(measure, sources, job).result()
    assert here.dtype == there.dtype == job.row_type
    assert here.tobytes() == there.tobytes()
    assert [name.decode() for name in here["id"]] == [source.id for source in sources]


def test_jobs_do_not_change(inputs, tmp_path):
    job = job_of(fit_work(), find_sources(inputs)[:2], tmp_path)
    with pytest.raises(FrozenInstanceError):
        job.n = 3  # type: ignore[misc]


def test_cutouts_in_memory_are_a_batch(inputs, tmp_path):
    sources = find_sources(inputs)[:4]
    job = job_of(fit_work(), sources, tmp_path)
    read = stack([read_cutout(source) for source in sources])
    assert measure(read, job).tobytes() == measure(sources, job).tobytes()


def test_rows_do_not_depend_on_the_threads_of_the_process(inputs, tmp_path):
    """A scheduler's process has as many as it likes: the job's own number counts."""
    sources = find_sources(inputs)[:6]
    job = job_of(fit_work(), sources, tmp_path)
    seen, before = [], torch.get_num_threads()

    @dataclass(frozen=True)
    class Watched(FitWork):
        def rows(self, cutouts, job, n_alike, clock):
            seen.append(torch.get_num_threads())
            return super().rows(cutouts, job, n_alike, clock)

    work = Watched(**{f.name: getattr(job.work, f.name) for f in fields(job.work)})
    torch.set_num_threads(2)
    try:
        found = measure(sources, replace(job, work=work))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
    assert found.tobytes() == measure(sources, job).tobytes()


def test_other_weights_on_another_machine_are_refused(inputs, tmp_path):
    sources = find_sources(inputs)[:1]
    job = job_of(predict_work(), sources, tmp_path)
    changed = replace(job, work=replace(job.work, digest="0" * 16))
    with pytest.raises(UsageError, match="differ between machines"):
        measure(sources, changed)


@dataclass(frozen=True)
class PoolEngine:
    """Sends parts to two other processes, as a scheduler of a cluster would."""

    pool: ProcessPoolExecutor
    exclusive: bool = True

    def compute(self, run: Run, worker: Worker, member: Member) -> None:
        sent = [
            self.pool.submit(compute_part, run.folder, k, run.sources_of(k), run.job)
            for k in range(len(run.folder))
        ]
        wait(sent)
        worker.n_fitted += sum(task.result() for task in sent)


@dataclass(frozen=True)
class BackwardEngine:
    """Computes the last part first."""

    exclusive: bool = False

    def compute(self, run: Run, worker: Worker, member: Member) -> None:
        for k in reversed(range(len(run.folder))):
            worker.n_fitted += compute_part(run.folder, k, run.sources_of(k), run.job)


@pytest.fixture(params=["serial", "backward", "pool"])
def engine(request, pool) -> Engine:
    return {
        "serial": SerialEngine(),
        "backward": BackwardEngine(),
        "pool": PoolEngine(pool),
    }[request.param]


# a process that computes slowly, so that it can be met and killed at its work
COMMAND = """
import sys, time
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.engine import parts
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions
plain = parts.measure
def slow(*given):
    time.sleep(float(sys.argv[3]))
    return plain(*given)
parts.measure = slow
run = RunOptions(uncertainty="covariance", initial_values="moments", part_size=3)
summary = fit_files(sys.argv[1], sys.argv[2], fit=FitOptions(compile="off"), run=run)
print(summary.n_fitted, flush=True)
"""


def started(inputs: Path, out: Path, seconds: float = 0.2) -> subprocess.Popen:
    """Another process at the same run."""
    command = [sys.executable, "-c", COMMAND, str(inputs), str(out), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_parts(out: Path, n: int) -> None:
    for _ in range(600):
        if len(list((out / "parts").glob("part-*.npy"))) >= n:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {n} parts within a minute")


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_every_engine_makes_the_same_table(engine, inputs, alone, tmp_path):
    found = run_files(inputs, tmp_path, fit_work(), engine=engine)
    assert found.results.read_bytes() == alone
    assert (found.n, found.n_fitted) == (N, N)
    assert found.flags["UNREADABLE"] == 1
    assert run_files(inputs, tmp_path, fit_work(), engine=engine).n_fitted == 0
    left = ["inputs.npy", "results.fits", "run.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == left


def test_every_engine_continues_a_run(engine, inputs, alone, killed, tmp_path):
    """Parts of a process that was killed: whole ones are kept, a damaged one is done again."""
    out = shutil.copytree(killed, tmp_path / "out")
    left = len(list((out / "parts").glob("part-*.npy")))
    (out / "parts" / "part-000000.npy").write_bytes(b"damage")
    found = run_files(inputs, out, fit_work(), engine=engine)
    assert found.results.read_bytes() == alone
    assert found.n_fitted == N - (left - 1) * PART
    assert found.notes == ("'part-000000.npy' is damaged (its checksum is wrong): measured again",)


def test_every_engine_raises_what_is_not_due_to_a_galaxy(engine, inputs, tmp_path):
    """Misuse that shows late ends the run, and leaves a folder that can be used."""
    work = replace(fit_work(), digest="0" * 16)
    with pytest.raises(UsageError, match="the weights"):
        run_files(inputs, tmp_path, work, engine=engine)
    assert not (tmp_path / ".workers").exists()
    assert list((tmp_path / "parts").iterdir()) == []
    assert run_files(inputs, tmp_path, fit_work(), overwrite=True, engine=engine).n_fitted == N


def test_two_processes_share_a_run(inputs, alone, tmp_path):
    """Each computes some parts, none is computed twice, and both end with the one table."""
    processes = [started(inputs, tmp_path) for _ in range(2)]
    counts = [int(process.communicate(timeout=300)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(counts) == N
    assert min(counts) > 0
    assert (tmp_path / "results.fits").read_bytes() == alone
    assert not (tmp_path / ".workers").exists()


def test_one_of_two_processes_is_killed(inputs, alone, tmp_path):
    """Whichever it is, wherever it was: the other takes its part over."""
    for seed in range(2):
        out = tmp_path / f"{seed}"
        victim = started(inputs, out, 0.5)
        wait_for_parts(out, 1)
        other = started(inputs, out, 0.1)
        time.sleep(0.7 * seed)
        kill(victim)
        count = int(other.communicate(timeout=300)[0])
        assert other.returncode == 0
        assert 0 < count < N
        assert (out / "results.fits").read_bytes() == alone


def test_every_process_is_killed_and_one_more_ends_the_run(inputs, alone, tmp_path):
    for n in (1, 3):
        processes = [started(inputs, tmp_path, 0.3) for _ in range(2)]
        wait_for_parts(tmp_path, n)
        for process in processes:
            kill(process)
    found = run_files(inputs, tmp_path, fit_work())
    assert 0 < found.n_fitted < N
    assert found.results.read_bytes() == alone
    assert not (tmp_path / ".workers").exists()


def test_who_cannot_join_is_refused(inputs, alone, tmp_path):
    """Another call on the folder of a living run: its parts stay its own."""
    process = started(inputs, tmp_path)
    wait_for_parts(tmp_path, 1)
    with pytest.raises(UsageError, match="another process is writing to output"):
        run_files(inputs, tmp_path, fit_work(), overwrite=True)
    with pytest.raises(UsageError, match="another process is writing to output"):
        run_files(inputs, tmp_path, fit_work(), engine=SerialEngine(exclusive=True))
    with pytest.raises(UsageError, match="run format was"):
        run_files(inputs, tmp_path, fit_work(replace(QUICK, format="csv")))
    assert int(process.communicate(timeout=300)[0]) == N
    assert (tmp_path / "results.fits").read_bytes() == alone


def test_a_run_is_logged_and_prints_nothing(inputs, killed, tmp_path, caplog, capsys):
    out = shutil.copytree(killed, tmp_path / "out")
    with caplog.at_level("INFO", logger="hybridfit"):
        run_files(inputs, out, fit_work())
    said = caplog.text
    assert "was left by a process that has ended: taken over" in said
    assert f"{N} galaxies, " in said
    assert f"written: {out}" in said
    assert capsys.readouterr() == ("", "")


def test_a_part_of_another_process_is_waited_for(inputs, alone, killed, tmp_path, monkeypatch):
    """Claimed by a process that lives: left alone. Once it has died: taken over."""
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            holder.__exit__(None, None, None)

    out = shutil.copytree(killed, tmp_path / "out")
    monkeypatch.setattr(serial.time, "sleep", sleep)
    holder = Member(out).__enter__()
    assert holder.claim(out / "parts" / "part-000005.npy") is not None
    found = run_files(inputs, out, fit_work())
    assert found.results.read_bytes() == alone
    assert len(waits) == 2
