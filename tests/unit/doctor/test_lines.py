"""What the doctor says of serial ports."""

import fcntl
import os
import pty
from contextlib import contextmanager

import pytest

from gateway.doctor import lines
from gateway.doctor.findings import Level


@contextmanager
def adapter(tmp_path, monkeypatch, *folders):
    """A pseudo terminal with names below `folders`, as udev makes them; yields its path and its descriptor."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    monkeypatch.setattr(lines, "_SERIAL", tmp_path)
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "usb-FTDI").symlink_to(path)
    try:
        yield path, slave
    finally:
        os.close(master)
        os.close(slave)


def look(path, said=({},)):
    return lines.serial_lines([{"kind": "serial", "port": path}], "buses", said)


@pytest.mark.parametrize(
    ("folders", "name"),
    [(("by-id", "by-path"), "by-id/usb-FTDI"), (("by-path",), "by-path/usb-FTDI"), ((), None)],
)
def test_a_name_that_does_not_survive(tmp_path, monkeypatch, folders, name):
    with adapter(tmp_path, monkeypatch, *folders) as (path, _):
        (found,) = look(path)
        assert (found.level, found.remedy) == (
            (Level.OK, "") if name is None else (Level.WARNING, f"use {tmp_path / name}")
        )
        (found,) = look("/dev/gone")
        assert (found.level, found.text) == (Level.PROBLEM, "/dev/gone: No such file or directory")
        assert found.remedy == f"adapters here: {'none is plugged in' if name is None else tmp_path / name}"


def test_where_ports_are_looked_for():
    tree = [{"kind": "modbus", "line": {"device": "/dev/ttyUSB0"}, "host": "h"}]
    assert list(lines._device_files(tree, "buses")) == [("buses[0].line.device", "/dev/ttyUSB0")]


def test_what_is_no_port():
    (found,) = look("/dev/shm")
    assert (found.level, found.text) == (Level.PROBLEM, "/dev/shm is no serial port")


def test_a_port_that_another_program_has(tmp_path, monkeypatch):
    with adapter(tmp_path, monkeypatch) as (path, slave):
        me = {os.getpid(): (lines._PROC / "self" / "comm").read_text().strip()}
        assert lines.holders(path) == me, "it is open here"
        (found,) = look(path, said=None)
        assert found.level is Level.PROBLEM
        assert f"{path} is in use by {me[os.getpid()]} (pid {os.getpid()})" == found.text
        assert look(path, [{}])[0].level is Level.OK, "the service has the line: it is the one"
        found, lost = look(path, [{"lost_since_ms": 1, "last_error": "in use by another program"}])
        assert "is in use by" in found.text, "the service runs, and cannot have it"
        assert lost.text == "in use by another program"
        fcntl.flock(slave, fcntl.LOCK_EX | fcntl.LOCK_NB)
        monkeypatch.setattr(lines.Path, "glob", lambda *_: iter(()))  # descriptors of others are hidden from most users
        assert lines.holders(path) == me, "locks are seen by all"


def test_a_port_that_may_not_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(lines.os, "access", lambda *_: False)
    with adapter(tmp_path, monkeypatch) as (path, _):
        (found,) = look(path)
        group = lines._group(os.stat(path).st_gid)
        assert found.level is Level.WARNING
        assert f":{group} crw" in found.text
        assert f"usermod -a -G {group} <user>" in found.remedy


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"lost_since_ms": 1, "last_error": "in use by another program"}, "in use by another program"),
        ({"units": [{"ok": True}, {"ok": False, "last_error": "is 9600 8N1 right?"}]}, "is 9600 8N1 right?"),
        ({"line": {"frames": 19, "bad_frames": 1, "last_bad": "FE"}}, "1 bad frames beside 19 good ones, the last: FE"),
        ({"line": {"frames": 100, "bad_frames": 5}}, None),
        ({"units": [{"ok": False, "last_error": None}], "line": {}}, None),
    ],
)
def test_what_the_running_service_sees_on_the_line(tmp_path, monkeypatch, told, text):
    monkeypatch.setattr(lines, "holders", lambda path: {})
    with adapter(tmp_path, monkeypatch) as (path, _):
        assert [finding.text for finding in look(path, [told])] == [f"{path} is there", *([text] if text else [])]
