"""Claims that let several processes, on one machine or many, share the folder of a run.

A process that works in the folder is a *member*: it owns a file whose time it renews every few
seconds to show that it is alive. A claim is a file that names its owner; it can be created once.
When the owner has died, the next generation of the claim may be created, and again only once: no
process removes another's claim, so two processes cannot take over the same one. Times are compared
with that of the member's own file, just renewed, and never with another machine's clock.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

from hybridfit.io.writing import LinkedPath, create_file, open_regular, real_folder

HEARTBEAT = 5.0  # seconds after which a member renews the time of its file
EXPIRY = 60.0  # seconds without renewal after which a member is dead
POLL = 0.2  # seconds between checks of another process's claim
TOKEN = re.compile(r"[0-9a-f]{32}")
LARGEST = 4096  # bytes of a member's file or of a claim
MEMBERS = ".workers"  # folder of the members' files
NOBODY = "-" * 32  # owner of a claim that was lost
AT_WORK = ".work"  # suffix of the file of a member that has begun to work


@dataclass(frozen=True)
class Claim:
    """A claim held by one member.

    Args:
        path: path of the claimed resource.
        generation: number of previous owners that died.
        token: token of the member.
    """

    path: Path
    generation: int
    token: str

    def is_held(self) -> bool:
        """Return whether the claim is valid: it exists, and was not taken over."""
        return _owner(_file(self.path, self.generation)) == self.token and not os.path.lexists(
            _file(self.path, self.generation + 1)
        )

    def release(self) -> None:
        """Release the claim. If taken over, it stays, without an owner, under its successor."""
        own = _file(self.path, self.generation)
        with suppress(OSError, LinkedPath):
            if _owner(own) != self.token:
                return
            if os.path.lexists(_file(self.path, self.generation + 1)):
                with open_regular(own, "r+b") as file:
                    file.write(NOBODY.encode())
            else:
                own.unlink()


class Member:
    """A process that works in a folder, as a context.

    Args:
        folder: that the processes share; it exists.
        heartbeat, expiry: seconds, see `HEARTBEAT` and `EXPIRY`.
    """

    def __init__(self, folder: Path, heartbeat: float = HEARTBEAT, expiry: float = EXPIRY) -> None:
        self.folder = folder / MEMBERS
        self.token = secrets.token_hex(16)
        self._heartbeat, self._expiry = heartbeat, expiry
        self._machine, self._pid = machine(), os.getpid()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Member:
        text = json.dumps({"machine": self._machine, "pid": self._pid})
        while True:
            real_folder(self.folder)
            with suppress(FileNotFoundError):  # the last member has removed the folder
                create_file(self.folder / self.token, text)
                break
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for name in (self.token + AT_WORK, self.token):
            with suppress(OSError):
                (self.folder / name).unlink()
        with suppress(OSError):
            left = list(self.folder.iterdir())
            if not any(TOKEN.match(file.name) for file in left):  # only claims of the dead
                for file in left:
                    file.unlink()
                self.folder.rmdir()

    @property
    def setup(self) -> Path:
        """The path that a member claims before it begins to work."""
        return self.folder / "setup"

    def begin_work(self) -> None:
        """Mark this member as working: from now on it is in the other members' `others`."""
        create_file(self.folder / (self.token + AT_WORK), "")

    def others(self) -> list[str]:
        """Return the other members that are alive and working."""
        tokens = {file.name.removesuffix(AT_WORK) for file in self.folder.glob(f"*{AT_WORK}")}
        return sorted(token for token in tokens - {self.token} if self.is_alive(token))

    def sweep(self) -> None:
        """Remove the files of members that have died."""
        for file in self.folder.iterdir():
            token = file.name.removesuffix(AT_WORK)
            if TOKEN.fullmatch(token) and not self.is_alive(token):
                with suppress(OSError):
                    file.unlink()

    def is_alive(self, token: str) -> bool:
        """Return whether a member is alive: renews its time, and exists if on this machine."""
        if token == self.token:
            return True
        if not TOKEN.fullmatch(token):
            return False
        found = _read(self.folder / token)
        if found is None or self._now() - found[1] > self._expiry:
            return False
        try:
            known = json.loads(found[0])
            here, pid = known["machine"] == self._machine, int(known["pid"])
        except (ValueError, TypeError, KeyError):  # it is being written
            return True
        return not here or process_exists(pid)

    def claim(self, path: Path) -> Claim | None:
        """Claim ``path``; None if a living member holds it.

        Raises:
            FileNotFoundError: if its folder is gone.
            OSError: if the claim cannot be written.
        """
        dead = ""  # owner of the generation before
        for generation in count():
            file = _file(path, generation)
            try:
                create_file(file, self.token)
            except FileExistsError:
                owner = self._dead_owner(file)
                if owner is None:
                    return None
                dead = owner
                continue
            claim = Claim(path, generation, self.token)
            # another may have taken it over, and released it, while this one looked
            if generation and _owner(_file(path, generation - 1)) != dead:
                claim.release()
                return None
            return claim
        raise AssertionError("count() never ends")

    @contextmanager
    def claimed(self, path: Path) -> Iterator[Claim | None]:
        """Hold a claim as a context; None if a living member holds it."""
        claim = self.claim(path)
        try:
            yield claim
        finally:
            if claim is not None:
                claim.release()

    @contextmanager
    def waiting_claim(self, path: Path) -> Iterator[Claim]:
        """Wait for a claim, and hold it as a context."""
        while (claim := self.claim(path)) is None:
            time.sleep(POLL)
        try:
            yield claim
        finally:
            claim.release()

    def _dead_owner(self, file: Path) -> str | None:
        """Return the owner of a claim if it has died; None if it is alive, or the claim is gone."""
        found = _read(file)
        if found is None:  # released meanwhile; or a file of another program
            return "" if os.path.lexists(file) else None
        owner, changed = found
        if not owner:  # its owner is about to write its name, unless it died meanwhile
            return "" if self._now() - changed > self._expiry else None
        return None if self.is_alive(owner) else owner

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat):
            with suppress(OSError):  # the folder may be gone, or the disk temporarily unavailable
                os.utime(self.folder / self.token)

    def _now(self) -> float:
        """Return the time of the folder's file system."""
        with suppress(OSError):
            os.utime(self.folder / self.token)
            return (self.folder / self.token).stat().st_mtime
        return time.time()


def machine() -> str:
    """Return an identifier of this machine and its process namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):  # containers number their processes anew
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_exists(pid: int) -> bool:
    """Return whether a process of this machine exists; True if unknown."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _file(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.claim-{generation}")


def _owner(file: Path) -> str:
    """Return the token in a claim, or ""."""
    found = _read(file)
    return found[0] if found else ""


def _read(file: Path) -> tuple[str, float] | None:
    """Return a small file's text and modification time; None if it cannot be read."""
    try:
        with open_regular(file) as opened:  # opening makes a file server refresh the time
            changed = os.fstat(opened.fileno()).st_mtime
            return opened.read(LARGEST).decode("ascii", "replace"), changed
    except (OSError, LinkedPath):
        return None
