"""Volatile disk: a block device (NBD on a Unix socket) that forgets at a power cut what was not flushed.

What was written since the last flush is in the drive's cache: at a cut each of those sectors keeps any of the values
that it had meanwhile, independently of the others, as the drive may have written them in any order or not at all.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from pathlib import Path

SECTOR_BYTES = 512
_READ, _WRITE, _END, _FLUSH = 0, 1, 2, 3
_EXPORT_NAME, _GO = 1, 7
_HAS_FLAGS, _HAS_FLUSH, _HAS_FUA = 1, 4, 8
_ACK, _INFO, _UNSUPPORTED = 1, 3, 0x80000001
_OPTION, _OPTION_REPLY = 0x49484156454F5054, 0x0003E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698


class VolatileDisk:
    """The medium and its cache."""

    def __init__(self, data: bytes) -> None:
        self.flushes = 0
        self._medium = bytearray(data)
        self._cache: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._medium)

    def read(self, offset: int, length: int) -> bytes:
        found = bytearray(self._medium[offset : offset + length])
        for at in range(offset, offset + length, SECTOR_BYTES):
            if at in self._cache:
                found[at - offset : at - offset + SECTOR_BYTES] = self._cache[at][-1]
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), SECTOR_BYTES):
            self._cache.setdefault(offset + at, []).append(data[at : at + SECTOR_BYTES])

    def flush(self) -> None:
        self.flushes += 1
        for at, values in self._cache.items():
            self._medium[at : at + SECTOR_BYTES] = values[-1]
        self._cache.clear()

    def cut(self, rng: random.Random) -> int:
        """Power goes; how many sectors did not have their last value on the medium."""
        lost = 0
        for at, values in self._cache.items():
            kept = rng.randint(0, len(values))
            lost += kept < len(values)
            if kept:
                self._medium[at : at + SECTOR_BYTES] = values[kept - 1]
        self._cache.clear()
        return lost


class Served:
    """The disk on a socket, for one connection after the other."""

    def __init__(self, disk: VolatileDisk, path: Path, careless: bool = False) -> None:
        """`careless`: a drive that says "flushed" and does nothing, the control."""
        self._disk = disk
        self._careless = careless
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No further writes reach the disk afterwards."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            with peer:
                try:
                    self._agree(peer)
                    while self._serve(peer):
                        pass
                except (ConnectionError, EOFError):
                    continue

    def _agree(self, peer: socket.socket) -> None:
        """Fixed newstyle negotiation up to the transmission phase."""
        peer.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        _receive(peer, 4)
        flags = _HAS_FLAGS | _HAS_FLUSH | _HAS_FUA
        while True:
            magic, option, length = struct.unpack(">QII", _receive(peer, 16))
            if magic != _OPTION:
                raise ConnectionError("not an NBD client")
            _receive(peer, length)
            if option == _EXPORT_NAME:
                peer.sendall(struct.pack(">QH", len(self._disk), flags))
                return
            if option == _GO:
                info = struct.pack(">HQH", 0, len(self._disk), flags)
                peer.sendall(struct.pack(">QIII", _OPTION_REPLY, option, _INFO, len(info)) + info)
                peer.sendall(struct.pack(">QIII", _OPTION_REPLY, option, _ACK, 0))
                return
            peer.sendall(struct.pack(">QIII", _OPTION_REPLY, option, _UNSUPPORTED, 0))

    def _serve(self, peer: socket.socket) -> bool:
        magic, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", _receive(peer, 28))
        if magic != _REQUEST or kind == _END:
            return False
        answer = b""
        if kind == _READ:
            answer = self._disk.read(offset, length)
        elif kind == _WRITE:
            self._disk.write(offset, _receive(peer, length))
        if (kind == _FLUSH or flags & 1) and not self._careless:
            self._disk.flush()
        known = kind in {_READ, _WRITE, _FLUSH}
        peer.sendall(struct.pack(">IIQ", _REPLY, 0 if known else 22, handle) + answer)
        return True


def _receive(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data
