"""Claims by which several processes, on one machine or many, share the folder of a run.

A process that works in the folder is a *member*: a file of its own, whose time it renews every few
seconds, shows that it lives. A claim is a file that names its owner; it can be created once. When
the owner has died, the next generation of the claim may be created, and again only once: nobody
removes another's claim, so that no two processes take over the same one. Times are compared with
that of the member's own file, just renewed: no clock of another machine is asked.
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
EXPIRY = 60.0  # seconds after which a member that has not is dead
POLL = 0.2  # seconds between looks at what another process holds
TOKEN = re.compile(r"[0-9a-f]{32}")
LARGEST = 4096  # bytes of a member's file or of a claim
MEMBERS = ".workers"  # folder of the members' files
NOBODY = "-" * 32  # owner of a claim that was lost
AT_WORK = ".work"  # ending of the file of a member that has begun to work


@dataclass(frozen=True)
class Claim:
    """What one member holds.

    Args:
        path: what is claimed.
        generation: how many owners died before.
        token: of the member.
    """

    path: Path
    generation: int
    token: str

    def is_held(self) -> bool:
        """Whether it still counts: it is there, and nobody has taken it over."""
        return _owner(_file(self.path, self.generation)) == self.token and not os.path.lexists(
            _file(self.path, self.generation + 1)
        )

    def release(self) -> None:
        """Give it up. One that was taken over stays, without an owner, under its successor."""
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
            if not any(TOKEN.match(file.name) for file in left):  # nobody: claims of the dead alone
                for file in left:
                    file.unlink()
                self.folder.rmdir()

    @property
    def setup(self) -> Path:
        """What a member claims before it begins to work."""
        return self.folder / "setup"

    def begin_work(self) -> None:
        """Show that this member works: `others` of the others names it from now on."""
        create_file(self.folder / (self.token + AT_WORK), "")

    def others(self) -> list[str]:
        """Return the other members that live and work."""
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
        """Whether a member lives: its time is renewed, and on this machine its process exists."""
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
        """Hold a claim, None if a living member holds it."""
        claim = self.claim(path)
        try:
            yield claim
        finally:
            if claim is not None:
                claim.release()

    @contextmanager
    def waiting_claim(self, path: Path) -> Iterator[Claim]:
        """Hold a claim as soon as nobody else does."""
        while (claim := self.claim(path)) is None:
            time.sleep(POLL)
        try:
            yield claim
        finally:
            claim.release()

    def _dead_owner(self, file: Path) -> str | None:
        """The owner of a claim if it has died; None if it lives, or the claim is gone again."""
        found = _read(file)
        if found is None:  # released meanwhile; or something that no process here made
            return "" if os.path.lexists(file) else None
        owner, changed = found
        if not owner:  # its maker is about to write its name, unless it died over that
            return "" if self._now() - changed > self._expiry else None
        return None if self.is_alive(owner) else owner

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat):
            with suppress(OSError):  # the folder may be gone, or the disk be away for a while
                os.utime(self.folder / self.token)

    def _now(self) -> float:
        """The time by the clock of the folder's file system."""
        with suppress(OSError):
            os.utime(self.folder / self.token)
            return (self.folder / self.token).stat().st_mtime
        return time.time()


def machine() -> str:
    """Return what tells this machine, and its processes' numbers, from others."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):  # containers number their processes anew
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_exists(pid: int) -> bool:
    """Whether a process of this machine exists; True where that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _file(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.claim-{generation}")


def _owner(file: Path) -> str:
    """The token in a claim, "" where there is none."""
    found = _read(file)
    return found[0] if found else ""


def _read(file: Path) -> tuple[str, float] | None:
    """A small file's text and the time of its last change; None if it cannot be read."""
    try:
        with open_regular(file) as opened:  # opening asks a file server for the time anew
            changed = os.fstat(opened.fileno()).st_mtime
            return opened.read(LARGEST).decode("ascii", "replace"), changed
    except (OSError, LinkedPath):
        return None
