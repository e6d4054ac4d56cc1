import errno
import os

import pytest

from agent.sensors.sysfs import Missing, SysfsReader
from tests.fakes_sysfs import build_sysfs


def test_text_comes_without_newline_and_nul(tmp_path):
    build_sysfs(tmp_path, {"proc/device-tree/model": "Board\0"})

    assert SysfsReader(tmp_path).read_text("proc/device-tree/model") == "Board"


def test_an_absent_file_is_a_value_that_says_so(tmp_path):
    result = SysfsReader(tmp_path).read_int("sys/nothing")

    assert isinstance(result, Missing)
    assert result.cause == "absent"


def test_garbage_is_no_number(tmp_path):
    build_sysfs(tmp_path, {"sys/a": "12 apples", "sys/b": ""})

    for path in ("sys/a", "sys/b"):
        result = SysfsReader(tmp_path).read_int(path)
        assert isinstance(result, Missing)
        assert result.cause == "garbage"


def test_negative_numbers_are_numbers(tmp_path):
    build_sysfs(tmp_path, {"sys/a": "-5000"})

    assert SysfsReader(tmp_path).read_int("sys/a") == -5000


def test_a_driver_that_is_not_ready_is_a_value(tmp_path):
    """Opening a FIFO with a writer and nothing in it gives a real EAGAIN."""
    fifo = tmp_path / "temp"
    os.mkfifo(fifo)
    reading_end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing_end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)

    result = SysfsReader(tmp_path).read_int("temp")

    os.close(reading_end)
    os.close(writing_end)
    assert isinstance(result, Missing)
    assert result.cause == "not_ready"


def test_a_folder_in_place_of_a_file_is_a_failure_and_not_an_exception(tmp_path):
    (tmp_path / "temp").mkdir()

    result = SysfsReader(tmp_path).read_text("temp")

    assert isinstance(result, Missing)
    assert result.cause == "failed"


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EACCES, "denied"), (errno.EPERM, "denied"), (errno.EAGAIN, "not_ready"), (errno.ENODATA, "not_ready"),
        (errno.ENODEV, "absent"), (errno.EIO, "failed"),
    ],
)  # fmt: skip
def test_every_error_of_the_kernel_has_a_cause(tmp_path, monkeypatch, number, cause):
    """The kernel cannot be made to answer each of these here (root is denied nothing), so `os.read` answers for it."""
    build_sysfs(tmp_path, {"sys/a": "1"})

    def refuse(descriptor: int, size: int) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("agent.sensors.sysfs.os.read", refuse)
        result = SysfsReader(tmp_path).read_int("sys/a")

    assert isinstance(result, Missing)
    assert result.cause == cause
    assert ("chmod" in result.text()) == (cause == "denied")


def test_a_long_file_is_cut_at_the_bound(tmp_path):
    build_sysfs(tmp_path, {"sys/a": "x" * 10_000})

    assert len(str(SysfsReader(tmp_path).read_text("sys/a", 100))) == 100


def test_folders_list_numbers_in_order_and_absence_as_empty(tmp_path):
    build_sysfs(tmp_path, {"sys/zone10/a": 1, "sys/zone9/a": 1})
    reader = SysfsReader(tmp_path)

    assert reader.list_dir("sys") == ("zone9", "zone10")
    assert reader.list_dir("proc") == ()
    assert reader.exists("sys/zone9")
