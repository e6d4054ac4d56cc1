"""A drive that forgets: what was flushed is there after a cut, of the rest any sector or none."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from tests.integration.volatile_disk import SECTOR_BYTES, Served, VolatileDisk

OLD, NEW, NEWER = (bytes([n]) * SECTOR_BYTES for n in (1, 2, 3))


def test_what_was_flushed_survives_and_of_the_rest_any_value_it_had():
    seen = set()
    for seed in range(40):
        disk = VolatileDisk(OLD * 3)
        disk.write(0, NEW)
        disk.flush()
        disk.write(SECTOR_BYTES, NEW)
        disk.write(SECTOR_BYTES, NEWER)
        assert disk.read(0, 3 * SECTOR_BYTES) == NEW + NEWER + OLD
        disk.cut(random.Random(seed))
        found = disk.read(0, 3 * SECTOR_BYTES)
        assert (found[:SECTOR_BYTES], found[2 * SECTOR_BYTES :]) == (NEW, OLD)
        seen.add(found[SECTOR_BYTES : 2 * SECTOR_BYTES])
    assert seen == {OLD, NEW, NEWER}


def request(peer, kind, offset=0, length=0, data=b"", flags=0):
    peer.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length or len(data)) + data)
    magic, error, handle = struct.unpack(">IIQ", peer.recv(16, socket.MSG_WAITALL))
    assert (magic, handle) == (0x67446698, 7)
    return error


@pytest.mark.parametrize("careless", [False, True])
def test_a_client_reads_writes_and_flushes_over_the_socket(tmp_path, careless):
    disk = VolatileDisk(OLD * 4)
    served = Served(disk, tmp_path / "disk", careless)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "disk"))
        assert peer.recv(18, socket.MSG_WAITALL)[:16] == b"NBDMAGICIHAVEOPT"
        peer.sendall(struct.pack(">I", 3))
        peer.sendall(struct.pack(">QII", 0x49484156454F5054, 8, 0))  # structured replies, which it has not
        assert struct.unpack(">QIII", peer.recv(20, socket.MSG_WAITALL))[2] == 0x80000001
        peer.sendall(struct.pack(">QII", 0x49484156454F5054, 1, 0))
        assert struct.unpack(">QH", peer.recv(10, socket.MSG_WAITALL))[0] == len(disk)
        assert request(peer, 1, SECTOR_BYTES, data=NEW) == 0
        assert request(peer, 0, SECTOR_BYTES, SECTOR_BYTES) == 0
        assert peer.recv(SECTOR_BYTES, socket.MSG_WAITALL) == NEW
        assert request(peer, 3) == 0
        assert request(peer, 9) == 22
    served.stop()
    assert disk.flushes == (0 if careless else 1)
