"""Files of packages: verified, durable, shared by all readers, and never other bytes than those that were checked."""

import base64
import hashlib
import os

import pytest

from gateway.errors import RejectedError
from gateway.store import PackageFiles
from gateway.store.packages import _BASE64_BLOCK

DATA = bytes(range(256)) * 1000


@pytest.fixture
async def files(tmp_path):
    files = PackageFiles(tmp_path / "ota", 1_000_000)
    yield files
    await files.close()


def text(data):
    return base64.b64encode(data).decode()


def sha(data):
    return hashlib.sha256(data).hexdigest()


async def keep(files, key="a", data=DATA):
    await files.save(key, text(data), "SHA256", sha(data), len(data))
    return await files.open(files.path_of(key), "SHA256", sha(data))


async def test_what_was_saved_is_read_by_offset(files, tmp_path):
    assert len(text(DATA)) > 2 * _BASE64_BLOCK
    file = await keep(files)
    assert [path.name for path in (tmp_path / "ota").iterdir()] == ["a"]
    assert file.size_bytes == len(DATA) == files.used_bytes
    assert await file.read(1000, 10) == DATA[1000:1010]
    assert await file.read(len(DATA) - 3, 10) == DATA[-3:]
    assert await file.read(len(DATA), 10) == b""
    file.release()


@pytest.mark.parametrize(
    ("base64_text", "algorithm", "checksum", "size", "reason"),
    [
        (text(DATA), "SHA256", sha(b"other"), len(DATA), "SHA256 is .* and should be"),
        (text(DATA), "SHA256", "", len(DATA), "should be given"),
        (text(DATA), "SHA256", sha(DATA), 7, "says dataSize 7"),
        (text(DATA), "SHA1", sha(DATA), len(DATA), "unknown checksum algorithm 'SHA1'"),
        ("no base64!!!", "SHA256", sha(DATA), 9, "not Base64"),
        ("A" * 2_000_000, "SHA256", sha(DATA), 9, "do not fit: 3 of 1000000 are used; .* ota.max_bytes"),
    ],
)
async def test_what_cannot_be_kept_leaves_what_was_there(
    files, base64_text, algorithm, checksum, size, reason, tmp_path
):
    (await keep(files, "other", b"abc")).release()
    with pytest.raises(RejectedError, match=reason):
        await files.save("a", base64_text, algorithm, checksum, size)
    assert [path.name for path in (tmp_path / "ota").iterdir()] == ["other"]


async def test_a_replaced_file_is_read_to_its_end_by_who_has_it(files):
    old = await keep(files, data=b"old" * 100)
    new = await keep(files, data=b"new" * 100)
    assert (await old.read(0, 3), await new.read(0, 3)) == (b"old", b"new")
    old.release()
    await files.delete("a")
    assert await new.read(3, 3) == b"new"
    new.release()
    with pytest.raises(RejectedError, match="cannot be read"):
        await files.open(files.path_of("a"), "SHA256", sha(b"new" * 100))


async def test_a_hundred_readers_share_one_descriptor(files):
    before = len(os.listdir("/proc/self/fd"))
    readers = [await keep(files)] + [await files.open(files.path_of("a"), "SHA256", sha(DATA)) for _ in range(99)]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    for reader in readers:
        reader.release()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_file_that_was_changed_is_not_served(files):
    file = await keep(files)
    files.path_of("a").write_bytes(b"x" * len(DATA))
    with pytest.raises(RejectedError, match="was changed"):
        await file.read(0, 10)
    file.release()
    with pytest.raises(RejectedError, match="SHA256 is"):
        await files.open(files.path_of("a"), "SHA256", sha(DATA))


async def test_after_a_start_the_checksum_is_looked_at_and_left_overs_go(files, tmp_path):
    (await keep(files)).release()
    (tmp_path / "ota" / "b.part").write_bytes(b"half")
    again = PackageFiles(tmp_path / "ota", 1_000_000)
    try:
        await again.keep_only({"a"})
        assert [path.name for path in (tmp_path / "ota").iterdir()] == ["a"]
        (await again.open(again.path_of("a"), "SHA256", sha(DATA))).release()
        with pytest.raises(RejectedError, match="MD5 is"):
            await again.open(again.path_of("a"), "MD5", sha(DATA))
    finally:
        await again.close()
