"""Who has which package: the device's own before its profile's, the cloud's before the folder's; what the device hears."""

import base64
import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.devices import Ota, OtaFolder, State
from gateway.domain.changes import DeleteDevice, SaveDevice, SaveEntity, SaveProfile
from gateway.domain.entity import DeviceProfile, time_uuid
from gateway.domain.ota import OTA_PACKAGE, OtaStatus, PackageKind, PackageUnavailable
from gateway.errors import RejectedError
from gateway.store import PackageFiles
from tests.fakes.house import FakeChannel, House, settle

FW, SW = PackageKind.FIRMWARE, PackageKind.SOFTWARE
SHARED = "SHARED_SCOPE"


def reference(id_):
    return {"entityType": "OTA_PACKAGE", "id": str(id_)}


def package(title="T", version="1", **changes):
    data = b"binary"
    json = {
        "type": "FIRMWARE", "title": title, "version": version, "dataSize": len(data), "checksumAlgorithm": "SHA256",
        "checksum": hashlib.sha256(data).hexdigest(), "fileName": "t.bin", "data": base64.b64encode(data).decode(),
    }  # fmt: skip
    return json | changes


@asynccontextmanager
async def site(tmp_path, manifest=None):
    async with House() as house:
        house.files = PackageFiles(tmp_path / "ota", 1000)
        folder = None
        if manifest is not None:
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "packages.yaml").write_text(manifest)
            folder = OtaFolder(tmp_path / "folder", house.files)
        house.ota = Ota(house.files, folder, house.state, house.pipeline, house.inlet, house.clock, house.counters)
        yield house
        await house.files.close()


async def content(house, device, kind=FW):
    found, file = await house.ota.open(device, kind)
    try:
        return found.title, await file.read(0, 100)
    finally:
        file.release()


async def status(house, device, kind=FW):
    with pytest.raises(PackageUnavailable) as caught:
        await house.ota.open(device, kind)
    return caught.value.status


# ── of the cloud ──


async def test_the_binary_is_a_file_and_not_in_the_database(tmp_path):
    async with site(tmp_path) as house:
        id_ = time_uuid()
        assert await house.ota.put_package(id_, package())
        saved = [change for change in house.committer.changes() if isinstance(change, SaveEntity)]
        assert [change.type for change in saved] == [OTA_PACKAGE]
        assert "data" not in saved[0].json
        assert (tmp_path / "ota" / str(id_)).read_bytes() == b"binary"
        assert not await house.ota.put_package(id_, package())  # a full sync brings it again
        assert len(house.committer.units) == 1


async def test_a_devices_own_package_wins_over_its_profiles(tmp_path):
    async with site(tmp_path) as house:
        device, own, of_profile = house.add_device(), time_uuid(), time_uuid()
        await house.ota.put_package(own, package("own"))
        await house.ota.put_package(of_profile, package("profile"))
        profile = DeviceProfile(id=time_uuid(), name="boiler", json={"firmwareId": reference(of_profile)})
        assert await status(house, device) is OtaStatus.NOT_FOUND
        house.state.apply([SaveProfile(profile)])
        assert await content(house, device) == ("profile", b"binary")
        device = replace(device, json={"firmwareId": reference(own)})
        assert await content(house, device) == ("own", b"binary")
        assert await status(house, device, SW) is OtaStatus.NOT_FOUND
        await house.ota.delete_package(own)
        assert await status(house, device) is OtaStatus.NOT_FOUND
        assert [path.name for path in (tmp_path / "ota").iterdir()] == [str(of_profile)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checksum": "00"}, "should be 00"),
        ({"data": None}, "came without data"),
        ({"data": "A" * 4000, "dataSize": 3000}, "ota.max_bytes"),
    ],
)
async def test_a_package_that_is_not_right_is_acknowledged_told_and_never_served(tmp_path, changes, reason, caplog):
    async with site(tmp_path) as house:
        id_ = time_uuid()
        device = replace(house.add_device(), json={"firmwareId": reference(id_)})
        house.state.apply([SaveDevice(device)])
        await house.ota.put_package(id_, package(**changes))
        assert await status(house, device) is OtaStatus.NOT_FOUND
        assert reason in caplog.text
        assert reason in house.ota.status()["problems"][0]
        (listed,) = house.ota.overview()["packages"]
        assert reason in listed["problem"]
        assert listed["devices"] == ["Boiler"]
        assert house.counters.get("ota.refused") == 1
        await house.ota.put_package(id_, package())
        assert await content(house, device) == ("T", b"binary")
        assert house.ota.status()["problems"] == []


async def test_a_url_is_nothing_to_download_here(tmp_path):
    async with site(tmp_path) as house:
        id_ = time_uuid()
        device = replace(house.add_device(), json={"softwareId": reference(id_)})
        await house.ota.put_package(id_, package(type="SOFTWARE", url="http://x/y", data=None, checksum=None))
        assert await status(house, device, SW) is OtaStatus.FAILURE


async def test_what_is_no_package_is_refused(tmp_path):
    async with site(tmp_path) as house:
        with pytest.raises(RejectedError, match="needs a title, a version and type FIRMWARE or SOFTWARE"):
            await house.ota.put_package(time_uuid(), {"title": "T"})


async def test_binaries_that_an_older_release_kept_in_the_database_become_files(tmp_path):
    async with site(tmp_path) as house:
        id_, named = time_uuid(), time_uuid()
        name_only = {"type": "FIRMWARE", "title": "B", "isNameOnly": True}
        entities = [(id_, package()), (named, name_only)]
        house.state.apply([SaveEntity(OTA_PACKAGE, str(key), json) for key, json in entities])
        await house.ota._out_of_the_database()
        assert (tmp_path / "ota" / str(id_)).read_bytes() == b"binary"
        assert "data" not in house.state.entity_json(OTA_PACKAGE, str(id_))
        assert list(house.state.entities(OTA_PACKAGE)) == [str(id_)]


# ── of the folder ──

MANIFEST = """
packages:
  - {title: Base, version: "1", file: base.bin, profiles: [boiler], checksum_algorithm: CRC32}
  - {title: Own, version: "2", file: own.bin, devices: [Boiler], tag: T2}
"""


async def with_files(house, tmp_path):
    (tmp_path / "folder" / "base.bin").write_bytes(b"base")
    (tmp_path / "folder" / "own.bin").write_bytes(b"own!")
    await house.ota.refresh()
    await settle()


def shared(house, device):
    return {key: held.value for key, held in house.state.attributes(device.entity_id, SHARED).items()}


async def test_an_assignment_is_told_as_the_server_tells_it_and_its_end_too(tmp_path):
    async with site(tmp_path, MANIFEST) as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        await with_files(house, tmp_path)
        expected = {
            "fw_title": "Own", "fw_version": "2", "fw_tag": "T2", "fw_size": 4, "fw_checksum_algorithm": "SHA256",
            "fw_checksum": hashlib.sha256(b"own!").hexdigest(),
        }  # fmt: skip
        assert shared(house, device) == expected
        assert channel.attributes == [expected]
        posted = [message.data for message in house.rules.seen if message.type == "POST_TELEMETRY_REQUEST"]
        assert posted == [
            {
                "target_fw_title": "Own", "target_fw_version": "2", "target_fw_ts": house.clock.now_ms(),
                "fw_state": "QUEUED", "target_fw_tag": "T2",
            },
            {"fw_state": "INITIATED"},
        ]  # fmt: skip
        assert await content(house, device) == ("Own", b"own!")
        units = len(house.committer.units)
        await house.ota.refresh()
        assert len(house.committer.units) == units  # nothing is said twice
        (tmp_path / "folder" / "packages.yaml").write_text("packages: []\n")
        await house.ota.refresh()
        await settle()
        assert shared(house, device) == {}
        assert set(channel.deleted[0]) == set(expected)
        assert await status(house, device) is OtaStatus.NOT_FOUND


async def test_a_profiles_package_for_the_others_and_no_tag_of_the_one_before(tmp_path):
    async with site(tmp_path, MANIFEST) as house:
        device = house.add_device()
        await with_files(house, tmp_path)
        (tmp_path / "folder" / "packages.yaml").write_text(MANIFEST.replace("[Boiler]", "[Other]"))
        await house.ota.refresh()
        await settle()
        assert await content(house, device) == ("Base", b"base")
        assert "fw_tag" not in shared(house, device)
        assert shared(house, device)["fw_checksum_algorithm"] == "CRC32"


async def test_the_clouds_assignment_wins_and_its_attributes_stay(tmp_path):
    async with site(tmp_path, MANIFEST) as house:
        device, id_ = house.add_device(), time_uuid()
        await with_files(house, tmp_path)
        await house.ota.put_package(id_, package("Cloud"))
        clouds = replace(device, json={"firmwareId": reference(id_)})
        house.state.apply([SaveDevice(clouds)])
        await house.ota.refresh()
        await settle()
        assert await content(house, clouds) == ("Cloud", b"binary")
        assert shared(house, device)["fw_title"] == "Own"  # until the cloud writes its own
        house.state.apply([SaveDevice(device)])
        await house.ota.refresh()
        await settle()
        assert await content(house, device) == ("Own", b"own!")


async def test_bad_manifests_and_files_are_told_and_change_nothing_for_the_others(tmp_path, caplog):
    async with site(tmp_path, MANIFEST) as house:
        device = house.add_device()
        await with_files(house, tmp_path)
        manifest = tmp_path / "folder" / "packages.yaml"
        manifest.write_text("packages:\n  - {title: X, version: '1', fil: x}\n")
        await house.ota.refresh()
        assert "packages[0].fil: unknown key; did you mean 'file'?" in house.ota.overview()["problem"]
        assert await content(house, device) == ("Own", b"own!")
        wrong = MANIFEST.replace("tag: T2", "checksum: '00'")
        manifest.write_text(wrong)
        await house.ota.refresh()
        await settle()
        assert "should be 00" in house.ota.status()["problems"][0]
        assert await status(house, device) is OtaStatus.NOT_FOUND
        assert shared(house, device)["fw_title"] == "Own"
        manifest.write_text("packages:\n  - {title: X, version: '1', file: ../../etc/passwd}\n")
        await house.ota.refresh()
        assert "must be a path inside the folder" in house.ota.overview()["problem"]


async def test_marks_of_deleted_devices_go(tmp_path):
    async with site(tmp_path, MANIFEST) as house:
        device = house.add_device()
        await with_files(house, tmp_path)
        assert house.state.settings("ota_assigned:")
        house.state.apply([DeleteDevice(device.id)])
        await house.ota.refresh()
        await settle()
        assert not house.state.settings("ota_assigned:")


def test_packages_are_in_memory_after_a_start():
    from gateway.ports import Snapshot

    id_ = str(time_uuid())
    assert State(Snapshot(entities=[(OTA_PACKAGE, id_, {"title": "T"})])).entity_json(OTA_PACKAGE, id_) == {
        "title": "T"
    }


@pytest.mark.parametrize("comes_first", ["package", "attributes"])
async def test_texts_that_the_server_made_numbers_of_are_texts_again(tmp_path, comes_first):
    async with site(tmp_path) as house:
        id_ = time_uuid()
        device = replace(house.add_device(), json={"firmwareId": reference(id_)})
        house.state.apply([SaveDevice(device)])
        channel = FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        house.commands.as_written = house.ota.as_written
        if comes_first == "package":
            await house.ota.put_package(id_, package("T", "2.10"))
        sent = {"fw_title": "T", "fw_version": 2.1, "fw_size": 6, "fw_tag": 7, "limit": 2.1}
        await house.commands.update_attributes(device.entity_id, SHARED, sent, 5)
        if comes_first == "attributes":
            await house.ota.put_package(id_, package("T", "2.10"))
            await house.ota.refresh()
            await settle()
        assert shared(house, device) == sent | {"fw_version": "2.10"}
        assert channel.attributes[-1]["fw_version"] == "2.10"
        units = len(house.committer.units)
        await house.ota.refresh()
        assert len(house.committer.units) == units
