"""Who holds the lock of a run's folder, asked without touching it.

Trying the lock would tell too, but for that moment it would be held, and a run that starts in it
would be refused its folder. The system's list of locks is only read.
"""

import fcntl
import os
import re
import socket
import struct
from typing import NamedTuple

_LIST = "/proc/locks"
_FLOCK = "hhqqi4x"  # C's struct flock: type, whence, start, length, process


class Holder(NamedTuple):
    """The process that holds a lock, or has held it last.

    Attributes:
      process: its number; 0 where nobody knows.
      host: "" where nobody knows.
      holds: whether it holds the lock; None where that is not seen from this machine.
    """

    process: int
    host: str
    holds: bool | None


class Locks:
    """The locks that processes of this machine hold, as they were when this was made."""

    def __init__(self):
        self._host = socket.gethostname()
        self._held: dict[int, list[tuple[int, int]]] = {}  # by inode: devices and processes
        try:
            with open(_LIST) as file:
                lines = file.read().splitlines()
        except OSError:  # no Linux
            return
        for line in lines:
            # 1: FLOCK  ADVISORY  WRITE 16036 fe:00:11363939 0 EOF; behind -> is who waits for it
            found = re.search(r"\d+: \w+ +\w+ +WRITE (-?\d+) (\w+):(\w+):(\d+) ", line)
            if found and "->" not in line:
                process, major, minor, inode = found.groups()
                device = os.makedev(int(major, 16), int(minor, 16))
                self._held.setdefault(int(inode), []).append((device, int(process)))

    def mentions(self, inode: int) -> bool:
        """Whether a lock may be one of them; file systems use the same numbers."""
        return inode in self._held

    def holder(self, path: str) -> Holder | None:
        """Who holds a lock file, or has written its name into it last; None where nobody has."""
        try:
            with open(path, errors="replace") as file:
                status, text = os.fstat(file.fileno()), file.read(300)
                process, host = _parsed(text)
                for device, holding in self._held.get(status.st_ino, ()):
                    # Some file systems, as Btrfs, list their locks by another device.
                    if device == status.st_dev or holding == process:
                        return Holder(process or holding, host or self._host, True)
                if not host:
                    return None
                if host == self._host and os.path.exists(_LIST):
                    return Holder(process, host, False)
                return Holder(process, host, _is_held_elsewhere(file.fileno()) or None)
        except OSError:
            return None


def _parsed(text: str) -> tuple[int, str]:
    """Process and host of what `workdir` writes into a lock file."""
    found = re.fullmatch(r"process (\d+) on (\S+)\s*", text)
    return (int(found[1]), found[2]) if found else (0, "")


def _is_held_elsewhere(file: int) -> bool:
    """Whether another machine holds a lock, where the file system knows: NFS keeps it as a range's.

    F_GETLK asks for a lock and takes none.
    """
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
        return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK
    except OSError:
        return False
