"""When certificates end: the walk through the DER, and what a person is told."""

import asyncio
import logging
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cloud.tls import Expiry, file_expiries, not_after_ms
from gateway.errors import RejectedError
from tests.unit.cloud.line import Authority, make, running, settings, stay
from tests.unit.cloud.server import serving, until

DAY_MS = 86_400_000


def der(tag, *contents):
    """One element, its length in the shortest form."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        head = bytes([length])
    else:
        digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
        head = bytes([0x80 | len(digits)]) + digits
    return bytes([tag]) + head + content


def time_of(moment):
    """RFC 5280, 4.1.2.5: two digits of the year until 2049."""
    if moment.year < 2050:
        return der(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return der(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


blobs = st.binary(max_size=70_000)
moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
moments = moments.map(lambda moment: moment.replace(microsecond=0))


@given(version=st.booleans(), serial=st.binary(min_size=1, max_size=20), name=blobs, rest=blobs, end=moments)
def test_the_end_is_found_whatever_stands_around_it(version, serial, name, rest, end):
    certificate = der(
        0x30,
        der(
            0x30,
            der(0xA0, der(0x02, b"\x02")) if version else b"",
            der(0x02, serial),
            der(0x30, b"algorithm"),
            der(0x30, name),
            der(0x30, time_of(datetime(2020, 1, 1, tzinfo=UTC)), time_of(end)),
            der(0x30, rest),
        ),
        der(0x30, b"algorithm"),
        der(0x03, b"signature"),
    )
    assert not_after_ms(certificate) == round(end.timestamp()) * 1000
    for cut in (1, len(certificate) // 2, len(certificate) - 1):
        with pytest.raises(RejectedError):
            not_after_ms(certificate[:cut])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda inner: der(0x30, der(0x30, inner))))
def test_bytes_that_are_no_certificate_are_refused(data):
    with pytest.raises(RejectedError):
        not_after_ms(data)


def test_real_certificates(tmp_path):
    authority = Authority(tmp_path)
    for name, end, expected in (
        ("near", "20491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("far", "20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
    ):
        certificate, _ = authority.issue(name, end=end)
        data = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        assert not_after_ms(data) == round(expected.timestamp()) * 1000


def test_of_a_file_with_several_the_first_to_end_counts_and_broken_files_are_left_out(tmp_path):
    authority = Authority(tmp_path)
    early, key = authority.issue("early", end="20300101000000Z")
    late, _ = authority.issue("late", end="20400101000000Z")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(late.read_text() + "some words\n" + early.read_text())
    config = settings(1, ssl_cert=bundle, ssl_client_cert=late, ssl_client_key=key)
    assert file_expiries(config) == [
        Expiry("cloud.ssl_cert", 1893456000000),
        Expiry("cloud.ssl_client_cert", 2208988800000),
    ]
    bundle.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert file_expiries(settings(1, ssl_cert=bundle)) == []
    assert file_expiries(settings(1, ssl_cert=tmp_path / "none")) == []


@pytest.mark.parametrize(("days", "expected"), [(0, 0), (1.5, 1), (-0.5, -1), (-1, -1)])
def test_days_left_are_whole_and_negative_after_the_end(days, expected):
    assert Expiry("x", round(days * DAY_MS)).days_left(0) == expected


async def test_a_certificate_that_ends_soon_is_warned_of_once_and_shown(tmp_path, caplog):
    authority = Authority(tmp_path)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10, hours=1)
    credentials = authority.server(end=end.strftime("%Y%m%d%H%M%SZ"))
    caplog.set_level(logging.WARNING, logger="gateway.cloud")
    async with serving(stay, credentials) as (_, port):
        link = make(port, ssl_enabled=True, ssl_cert=authority.folder / "ca.pem", ssl_server_name="cloud.test")
        for session in (1, 2):
            async with running(link):
                await asyncio.wait_for(link.wait_ready(), 5)
                await until(lambda: len(link.status()["certificates"]) == 2)
                assert link.status()["session"] == session
    shown = {one["name"]: one for one in link.status()["certificates"]}
    assert shown["server"] == {"name": "server", "not_after_ms": round(end.timestamp()) * 1000, "days_left": 10}
    assert shown["cloud.ssl_cert"]["days_left"] in (398, 399, 400)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("gateway.")]
    assert said == ["cloud: the server's certificate expires in 10 days; the link ends with it"]


async def test_without_tls_there_is_no_certificate():
    async with serving(stay) as (_, port):
        link = make(port)
        async with running(link):
            await asyncio.wait_for(link.wait_ready(), 5)
            assert link.status()["certificates"] == []
