"""What a sync sends: one fetcher after the other, in the server's order.

Each fetcher gives the events of one kind; the session cuts them into packs. Relations and attributes are not
part of a sync: they come when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.cloudsim.events import PAGE, EdgeEvent
from gateway.cloudsim.options import CustomerKind
from gateway.cloudsim.world import World
from gateway.domain.entity import NULL_UUID


def sync_pages(world: World, release: tuple[int, int], *, is_full: bool) -> Iterator[list[EdgeEvent]]:
    """The packs of a sync, at most a page each; the end itself (`syncCompletedMsg`) is not among them."""
    for events in _fetchers(world, release, is_full):
        for start in range(0, len(events), PAGE):
            yield events[start : start + PAGE]


def _fetchers(world: World, release: tuple[int, int], is_full: bool) -> Iterator[list[EdgeEvent]]:
    if is_full:
        yield [EdgeEvent("TENANT", "UPDATED", world.tenant_id)]
        yield _all(world, "QUEUE")
        yield _all(world, "RULE_CHAIN")
        yield _admin_settings(world, str(NULL_UUID))
        if release != (4, 0):
            yield _admin_settings(world, str(world.tenant_id))
        yield _all(world, "USER")
        if release >= (4, 3):
            yield _all(world, "DOMAIN")
            yield from _widgets(world)
            yield _all(world, "AI_MODEL")
    if world.customer is CustomerKind.REAL and (is_full or release >= (3, 8)):
        yield _all(world, "CUSTOMER")
    yield _all(world, "DASHBOARD")
    yield _defaults(world, "DEVICE_PROFILE") + _defaults(world, "ASSET_PROFILE")
    for type_ in ("DEVICE_PROFILE", "ASSET_PROFILE", "DEVICE", "ASSET", "ENTITY_VIEW"):
        yield _all(world, type_)
    if is_full:
        for type_ in ("NOTIFICATION_TEMPLATE", "NOTIFICATION_TARGET", "NOTIFICATION_RULE"):
            yield _all(world, type_)
        if release < (4, 3):
            yield from _widgets(world)
        yield _all(world, "OTA_PACKAGE")
        if release >= (3, 9):
            yield _all(world, "DEVICE_PROFILE")
        yield _all(world, "TB_RESOURCE")
        if release < (4, 3):
            yield _all(world, "DOMAIN") if release >= (3, 8) else [EdgeEvent("OAUTH2", "UPDATED", None)]


def _widgets(world: World) -> Iterator[list[EdgeEvent]]:
    yield _all(world, "WIDGET_TYPE")
    yield _all(world, "WIDGETS_BUNDLE")


def _all(world: World, type_: str) -> list[EdgeEvent]:
    return [EdgeEvent(type_, "ADDED", entity.id) for entity in world.of_type(type_) if entity.is_assigned]


def _defaults(world: World, type_: str) -> list[EdgeEvent]:
    return [EdgeEvent(type_, "ADDED", entity.id) for entity in world.of_type(type_) if entity.json["default"]]


def _admin_settings(world: World, owner: str) -> list[EdgeEvent]:
    return [
        EdgeEvent("ADMIN_SETTINGS", "UPDATED", held.id)
        for held in world.of_type("ADMIN_SETTINGS")
        if held.json["tenantId"]["id"] == owner
    ]
