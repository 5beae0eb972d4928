"""Claims by which processes share a folder: one owner at a time, and none for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hybridfit.data.errors import UsageError
from hybridfit.io.claims import MEMBERS, Member, machine, process_exists

DYING = """
import os, sys
from pathlib import Path
from hybridfit.io.claims import Member
member = Member(Path(sys.argv[1])).__enter__()
member.begin_work()
assert member.claim(Path(sys.argv[1]) / "part") is not None
print("claimed", flush=True)
os.kill(os.getpid(), 9)
"""


def died_with_a_claim(folder: Path) -> None:
    """A process of this machine that was killed while it held ``folder/part``."""
    done = subprocess.run([sys.executable, "-c", DYING, str(folder)], capture_output=True)
    assert done.stdout == b"claimed\n", done.stderr


def died_elsewhere(folder: Path, age: float) -> str:
    """Files of a process of another machine whose last sign of life is ``age`` seconds old."""
    token = f"{int(age):032x}"
    (folder / MEMBERS).mkdir(exist_ok=True)
    for name, text in ((token, json.dumps({"machine": "other", "pid": 1})), (f"{token}.work", "")):
        (folder / MEMBERS / name).write_text(text)
        os.utime(folder / MEMBERS / name, (time.time() - age,) * 2)
    (folder / "part.claim-0").write_text(token)
    return token


def test_one_owner_at_a_time(tmp_path):
    with Member(tmp_path) as one, Member(tmp_path) as two:
        held = one.claim(tmp_path / "part")
        assert held is not None
        assert held.is_held()
        assert two.claim(tmp_path / "part") is None
        assert two.claim(tmp_path / "other") is not None
        held.release()
        assert not held.is_held()
        assert two.claim(tmp_path / "part") is not None
    assert not (tmp_path / MEMBERS).exists()


def test_a_dead_process_is_succeeded_at_once(tmp_path):
    died_with_a_claim(tmp_path)
    with Member(tmp_path) as one, Member(tmp_path) as two:
        assert one.others() == []
        held = one.claim(tmp_path / "part")
        assert held is not None
        assert held.generation == 1
        assert two.claim(tmp_path / "part") is None
        held.release()
        again = two.claim(tmp_path / "part")
        assert again is not None
        assert again.is_held()


def test_a_process_elsewhere_is_succeeded_once_it_is_silent(tmp_path):
    token = died_elsewhere(tmp_path, 30)
    with Member(tmp_path) as member:
        assert member.others() == [token]
        assert member.claim(tmp_path / "part") is None
        died_elsewhere(tmp_path, 120)
        assert member.claim(tmp_path / "part") is not None
        assert member.others() == [token]
        member.sweep()
        assert sorted(file.name[:4] for file in (tmp_path / MEMBERS).iterdir()) == sorted(
            [token[:4], token[:4], member.token[:4]]
        )


def test_a_beating_heart_is_heard(tmp_path):
    """A member without a heartbeat passes for dead; with one it does not, and is told if it was."""
    with Member(tmp_path, heartbeat=60, expiry=0.3) as still:
        slept = still.claim(tmp_path / "part")
        assert slept is not None
        with Member(tmp_path, heartbeat=0.05, expiry=0.3) as lively:
            time.sleep(0.5)
            taken = lively.claim(tmp_path / "part")
            assert taken is not None
            assert not slept.is_held()
            slept.release()
            assert taken.is_held(), "a late release leaves the successor's claim alone"
            time.sleep(0.5)
            assert still.claim(tmp_path / "part") is None


def test_of_many_that_try_to_succeed_one_does(tmp_path):
    for _ in range(20):
        folder = tmp_path / f"{time.monotonic_ns()}"
        folder.mkdir()
        died_elsewhere(folder, 120)
        members = [Member(folder).__enter__() for _ in range(8)]
        found, start = [], threading.Barrier(8)

        def attempt(member, folder=folder, found=found, start=start):
            start.wait()
            found.append(member.claim(folder / "part"))

        threads = [threading.Thread(target=attempt, args=(member,)) for member in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claim is not None for claim in found) == 1
        for member in members:
            member.__exit__(None, None, None)


@pytest.mark.parametrize("text", ["", "{", "../../etc/passwd", "x" * 10_000, "\xff"])
def test_claims_that_nobody_made(tmp_path, text: str):
    """Damage is nobody's claim; an empty file is one that is being written, for a while."""
    (tmp_path / "part.claim-0").write_text(text, encoding="latin-1")
    (tmp_path / "linked.claim-0").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.claim-0").mkdir()
    with Member(tmp_path) as member:
        assert (member.claim(tmp_path / "part") is None) == (text == "")
        os.utime(tmp_path / "part.claim-0", (1, 1))
        if not text:
            assert member.claim(tmp_path / "part") is not None
        for name in ("linked", "folder"):
            held = member.claim(tmp_path / name)
            assert held is not None
            assert held.is_held()
    assert not (tmp_path / "nowhere").exists()


def test_members_in_a_folder_of_somebody_else(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / MEMBERS).symlink_to(tmp_path / "away")
    with pytest.raises(UsageError, match="is a link"), Member(tmp_path):
        pass
    assert list((tmp_path / "away").iterdir()) == []


def test_processes_of_this_machine():
    assert process_exists(os.getpid())
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not process_exists(done.pid)
    assert machine() == machine() != ""
