"""Access lists decide as acl(5) says: a named user first, then groups under the mask, then others."""

from __future__ import annotations

import os
import struct

import pytest

from agent.service.doctor import access_list
from agent.service.doctor.access_list import GROUP, MASK, OTHER, OWNER, OWNING_GROUP, USER, Entry, grants, parse
from agent.service.doctor.service_unit import Account

NOBODY = 0xFFFFFFFF
CLOSED = (Entry(OWNER, 6, NOBODY), Entry(OWNING_GROUP, 0, NOBODY), Entry(MASK, 7, NOBODY), Entry(OTHER, 0, NOBODY))


def packed(*entries: Entry) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_what_linux_keeps_is_read_and_other_bytes_are_no_list():
    assert parse(packed(*CLOSED)) == CLOSED
    assert parse(b"") == parse(struct.pack("<I", 3)) == parse(packed(*CLOSED)[:-1]) == ()


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ((), False),
        ((Entry(USER, 4, 900),), True),
        ((Entry(USER, 4, 901),), False),
        ((Entry(USER, 0, 900), Entry(GROUP, 7, 50)), False),
        ((Entry(GROUP, 4, 50),), True),
        ((Entry(GROUP, 2, 50), Entry(GROUP, 4, 51)), True),
        ((Entry(GROUP, 4, 60),), False),
    ],
)
def test_a_named_user_is_asked_before_groups_and_others(more, may):
    assert grants((*CLOSED, *more), 900, {50, 51}, 0, os.R_OK) is may


def test_the_mask_bounds_named_users_and_groups_but_not_others():
    bound = (Entry(MASK, 0, NOBODY), Entry(OTHER, 4, NOBODY))
    assert not grants((*bound, Entry(USER, 7, 900)), 900, set(), 0, os.R_OK)
    assert not grants((*bound, Entry(OWNING_GROUP, 7, NOBODY)), 900, {0}, 0, os.R_OK)
    assert grants(bound, 900, set(), 0, os.R_OK)


def test_a_list_opens_to_the_service_what_the_bits_close(tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    file.touch(0o600)
    account = Account("qeil", 54_321, frozenset({54_321}))
    assert not account._granted(file, os.R_OK)
    opened = (*CLOSED, Entry(USER, 4, 54_321))
    monkeypatch.setattr(access_list, "entries", lambda path: opened if path == file else ())
    assert account._granted(file, os.R_OK)
    assert not account._granted(file, os.W_OK)


def test_a_file_without_a_list_has_no_entries(tmp_path):
    assert access_list.entries(tmp_path) == access_list.entries(tmp_path / "gone") == ()
