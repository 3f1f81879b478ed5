"""Devices that get in by themselves: every strategy, every kind of credentials, and nothing told before it is durable."""

import asyncio
import dataclasses
import logging

import orjson
import pytest

from gateway.devices.provisioning import ProvisionKey, x509_credentials
from gateway.domain.changes import SaveAttributes, SaveDevice, SaveProfile
from gateway.domain.entity import DeviceProfile, time_uuid
from gateway.domain.onboarding import CertificateChain, ProvisionRequest, parse_provision, provision_json
from gateway.domain.payloads import PayloadError
from gateway.errors import RejectedError
from tests.fakes.house import FakeChannel, House, settle

CREATE, CHECK, CHAIN = "ALLOW_CREATE_NEW_DEVICES", "CHECK_PRE_PROVISIONED_DEVICES", "X509_CERTIFICATE_CHAIN"
FAILURE = {"errorMsg": "Failed to provision device!", "status": "FAILURE"}
NOT_FOUND = {"errorMsg": "Provision data was not found!", "status": "NOT_FOUND"}


def profile(house, kind=CREATE, key="key", name="boiler", **configuration):
    json = {
        "name": name,
        "provisionType": kind,
        "provisionDeviceKey": key,
        "profileData": {"provisionConfiguration": {"type": kind, "provisionDeviceSecret": "s3cret", **configuration}},
    }
    made = DeviceProfile(id=time_uuid(), name=name, origin="CLOUD", json=json)
    house.state.apply([SaveProfile(made)])
    return made


def request(**members):
    return {"provisionDeviceKey": "key", "provisionDeviceSecret": "s3cret", **members}


async def ask(house, **members):
    wanted = parse_provision(orjson.dumps(request(**members)))
    return orjson.loads(provision_json(await house.inlet.provision(wanted)))


@pytest.mark.parametrize(
    ("members", "value", "kind"),
    [
        ({"token": "mine"}, "mine", "ACCESS_TOKEN"),
        (
            {"credentialsType": "MQTT_BASIC", "clientId": "c", "username": "u", "password": "p"},
            {"clientId": "c", "userName": "u", "password": "p"},
            "MQTT_BASIC",
        ),
        ({"credentialsType": "X509_CERTIFICATE", "hash": "-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----\n"}, "QUJDREVG", "X509_CERTIFICATE"),
    ],
)  # fmt: skip
async def test_a_device_is_created_with_the_credentials_that_it_wished(members, value, kind):
    async with House() as house:
        made = profile(house)
        answer = await ask(house, deviceName=" D-1 ", gateway=True, **members)
        assert answer == {"credentialsValue": value, "credentialsType": kind, "status": "SUCCESS"}
        device = house.state.device_named("D-1")
        assert (device.type, device.profile_id, device.is_gateway) == ("boiler", made.id, True)
        assert house.inlet.find_credentials(device.credentials.credentials_id)[1] == device
        assert [(e.action, e.entity_id) for e in house.committer.events()] == [("ADDED", device.id)]


async def test_without_wishes_name_and_token_are_made():
    async with House() as house:
        profile(house)
        first, second = await ask(house), await ask(house)
        assert first["credentialsValue"] != second["credentialsValue"]
        assert {len(first["credentialsValue"]), len(second["credentialsValue"])} == {20}
        assert [len(device.name) for device in house.state.devices()] == [20, 20]


async def test_the_answer_waits_for_the_disk_and_a_twin_gets_a_failure():
    async with House() as house:
        profile(house)
        house.committer.hold()
        first = asyncio.create_task(ask(house, deviceName="D", token="t"))
        same_name = asyncio.create_task(ask(house, deviceName="D", token="u"))
        same_token = asyncio.create_task(ask(house, deviceName="E", token="t"))
        await settle()
        assert not first.done()
        assert same_token.done()
        house.committer.release()
        assert (await first)["status"] == "SUCCESS"
        assert await same_name == await same_token == FAILURE
        assert [device.name for device in house.state.devices()] == ["D"]


@pytest.mark.parametrize(
    "members",
    [
        {"deviceName": "   "},
        {"deviceName": "x" * 256},
        {"deviceName": "Known"},
        {"deviceName": "N", "token": "taken"},
        {"deviceName": "N", "credentialsType": "MQTT_BASIC"},
        {"deviceName": "N", "credentialsType": "MQTT_BASIC", "clientId": "c", "password": "p"},
        {"deviceName": "N", "credentialsType": "X509_CERTIFICATE"},
        {"deviceName": "N", "token": "provision"},
        {"deviceName": "N", "credentialsType": "MQTT_BASIC", "clientId": "provision", "username": "u"},
    ],
)
async def test_what_can_not_be_created_fails_and_leaves_nothing(members):
    async with House() as house:
        profile(house)
        house.add_device("Known", "taken")
        assert await ask(house, **members) == FAILURE
        assert house.committer.changes() == []


async def test_a_full_house_and_a_refusing_disk_are_failures():
    async with House() as house:
        profile(house)
        house.inlet.provisioning.max_devices = 1
        house.committer.refuse_next = RejectedError("no")
        assert await ask(house, deviceName="A", token="a") == FAILURE
        assert (await ask(house, deviceName="A", token="a"))["status"] == "SUCCESS"
        assert await ask(house, deviceName="B") == FAILURE


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (CREATE, {"provisionDeviceSecret": "wrong"}),
        (CREATE, {"provisionDeviceSecret": ""}),
        (CREATE, {"provisionDeviceKey": "other"}),
        (CREATE, {"provisionDeviceKey": ""}),
        ("DISABLED", {}),
    ],
)
async def test_wrong_keys_are_not_told_from_wrong_secrets_nor_logged(kind, members, caplog):
    caplog.set_level(logging.DEBUG)
    async with House() as house:
        profile(house, kind)
        wanted = request(**members)
        answer = await house.inlet.provision(parse_provision(orjson.dumps(wanted)))
        assert orjson.loads(provision_json(answer)) == NOT_FOUND
        assert "s3cret" not in caplog.text + repr(parse_provision(orjson.dumps(request())))


async def test_a_profile_without_a_secret_lets_nobody_in():
    async with House() as house:
        profile(house, provisionDeviceSecret=None)
        assert await ask(house, provisionDeviceSecret="") == NOT_FOUND


async def test_a_known_device_is_provisioned_once_with_the_credentials_it_has():
    async with House() as house:
        profile(house, CHECK)
        device = house.add_device("Boiler", "old-token")
        assert await ask(house, deviceName="Nobody") == FAILURE
        answer = await ask(house, deviceName="Boiler", token="wished")
        assert (answer["status"], answer["credentialsValue"]) == ("SUCCESS", "old-token")
        assert house.state.attribute(device.entity_id, "SERVER_SCOPE", "provisionState").value == "provisioned"
        (event,) = house.committer.events()
        assert (event.action, orjson.loads(event.body)["kv"]) == (
            "ATTRIBUTES_UPDATED",
            {"provisionState": "provisioned"},
        )
        assert await ask(house, deviceName="Boiler") == FAILURE


async def test_a_device_of_another_profile_is_not_provisioned():
    async with House() as house:
        profile(house, CHECK, name="pump")
        house.add_device("Boiler", "old-token")  # profile boiler
        assert await ask(house, deviceName="Boiler") == FAILURE


async def test_the_certificate_strategy_refuses_keys():
    async with House() as house:
        profile(house, CHAIN)
        assert await ask(house, deviceName="D") == FAILURE


async def test_a_key_of_the_configuration_makes_its_profile():
    async with House() as house:
        house.inlet.provisioning.local = [ProvisionKey(profile="valve", type=CREATE, key="key", secret="s3cret")]
        assert (await ask(house, deviceName="V"))["status"] == "SUCCESS"
        device = house.state.device_named("V")
        assert house.state.profile(device.profile_id).name == "valve"
        assert [type(change) for change in house.committer.units[0][:2]] == [SaveProfile, SaveDevice]


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"",
        b"{}",
        b'{"provisionDeviceKey":"k"}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":{"a":1}}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s","credentialsType":"LWM2M"}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s","gateway":"yes"}',
    ],
)
def test_bad_requests(payload):
    with pytest.raises(PayloadError):
        parse_provision(payload)


def test_a_name_like_a_number_stays_a_text_and_nulls_are_absent():
    wanted = parse_provision(
        b"{provisionDeviceKey:'k',provisionDeviceSecret:7,deviceName:'007',token:null,username:null}"
    )
    assert wanted == ProvisionRequest(key="k", secret="7", device_name="007")


# ── certificates ──


def chain(*lines, name="dev-7.example"):
    return CertificateChain(lines=lines, common_name=name)


def maker(house, **configuration):
    return profile(house, CHAIN, x509_credentials("CA").credentials_id, **configuration)


async def test_the_device_of_a_leaf_is_known():
    async with House() as house:
        device = dataclasses.replace(house.add_device("Boiler"), credentials=x509_credentials("LEAF"))
        house.state.apply([SaveDevice(device)])
        assert await house.inlet.admit_by_certificate(chain("LEAF")) == device
        assert await house.inlet.admit_by_certificate(chain("OTHER")) is None
        assert house.committer.changes() == []


async def test_a_makers_certificate_creates_the_device_before_it_is_admitted():
    async with House() as house:
        maker(house, certificateRegExPattern=r"^(dev-\d+)\.", allowCreateNewDevicesByX509Certificate=True)
        house.committer.hold()
        both = [asyncio.create_task(house.inlet.admit_by_certificate(chain("LEAF", "CA"))) for _ in range(2)]
        await settle()
        assert not both[0].done()
        house.committer.release()
        first, second = await asyncio.gather(*both)
        assert first == second == house.state.device_named("dev-7")
        assert [event.action for event in house.committer.events()] == ["ADDED"]


@pytest.mark.parametrize(
    "configuration",
    [
        {"certificateRegExPattern": "(.*)"},  # creates none
        {"certificateRegExPattern": "(nothing)", "allowCreateNewDevicesByX509Certificate": True},
        {"certificateRegExPattern": "((", "allowCreateNewDevicesByX509Certificate": True},
        {"allowCreateNewDevicesByX509Certificate": True},
    ],
)
async def test_what_the_profile_does_not_allow_stays_out(configuration):
    async with House() as house:
        maker(house, **configuration)
        assert await house.inlet.admit_by_certificate(chain("LEAF", "CA")) is None
        assert house.committer.changes() == []


async def test_a_known_device_gets_the_new_certificate_and_its_old_session_ends():
    async with House() as house:
        maker(house, certificateRegExPattern="(Boiler|Pump)")
        device = house.add_device("Boiler", "old")
        channel = FakeChannel()
        house.inlet.open_session(device, channel)
        admitted = await house.inlet.admit_by_certificate(chain("LEAF", "CA", name="Boiler"))
        assert admitted.credentials == x509_credentials("LEAF")
        assert house.inlet.find_credentials("old") is None
        assert channel.closed == ["not_authorized"]
        assert [event.action for event in house.committer.events()] == ["CREDENTIALS_UPDATED"]
        other = dataclasses.replace(house.add_device("Pump", "tok"), type="pump")
        house.state.apply([SaveDevice(other)])
        assert await house.inlet.admit_by_certificate(chain("LEAF2", "CA", name="Pump")) is None


async def test_an_ordinary_key_is_no_certificate():
    async with House() as house:
        profile(house, CREATE, x509_credentials("CA").credentials_id)
        assert await house.inlet.admit_by_certificate(chain("LEAF", "CA")) is None


async def test_attributes_of_another_scope_do_not_count_as_provisioned():
    async with House() as house:
        profile(house, CHECK)
        device = house.add_device("Boiler", "t")
        house.state.apply([SaveAttributes(device.entity_id, "CLIENT_SCOPE", 1, {"provisionState": "provisioned"})])
        assert (await ask(house, deviceName="Boiler"))["status"] == "SUCCESS"


@pytest.mark.parametrize(
    "members",
    [
        {"deviceName": "a\0b"},
        {"deviceName": "a\nb"},
        {"deviceName": "D", "token": "a\0b"},
        {"deviceName": "D", "credentialsType": "MQTT_BASIC", "clientId": "c\x07"},
    ],
    ids=["name with NUL", "name of two lines", "token with NUL", "client id with BEL"],
)
async def test_what_no_server_would_store_is_refused_here(members, caplog):
    async with House() as house:
        profile(house)
        with caplog.at_level(logging.WARNING):
            assert await ask(house, **members) == FAILURE
        assert "control character" in caplog.text
        assert not list(house.state.devices())
