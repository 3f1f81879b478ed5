"""Whatever comes as a chain or as a message: errors are answers, never surprises."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import RulesConfig
from gateway.domain.entity import EntityId
from gateway.domain.message import Message, MessageType
from gateway.domain.rpc import RpcError, RpcResponse
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.rules import RuleEngine
from gateway.rules.node import REGISTRY
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import CHAIN_ID, DEVICE_ID, FakeState, P, Rules

texts = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
PLAIN = sorted(
    name for name, kind in REGISTRY.items() if kind.is_supported and not name.endswith(("JsFilterNode", "JsSwitchNode"))
)
KEYS = [
    *("scope", "keys", "fetchTo", "dataMapping", "processingSettings", "messageNames", "metadataNames"),
    *("checkAllKeys", "ruleChainId", "notifyDevice", "timeoutInSeconds", "renameKeysMapping", "copyFrom"),
    *("deleteFrom", "originatorTypes", "messageTypes", "clientAttributeNames"),
    *("jsonPath", "relationsQuery", "polygonsDefinition", "perimeterType", "originatorSource", "detailsList"),
    *("latestTsKeyNames", "fetchMode", "limit", "inputValueKey", "round", "entityId", "checkForSingleEntity"),
]
configs = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4) | json_values
labels = st.sampled_from(["Success", "Failure", "True", "False", "Other", "Post telemetry", "x"])
nodes = st.fixed_dictionaries(
    {"type": st.sampled_from(PLAIN).map(lambda name: P + name) | texts, "name": texts, "configuration": configs},
    optional={"configurationVersion": st.integers(-1, 4) | texts},
)
indexes = st.integers(-1, 5)
metadatas = st.fixed_dictionaries(
    {"nodes": st.lists(nodes, max_size=5), "firstNodeIndex": indexes | st.none()},
    optional={
        "connections": st.lists(
            st.fixed_dictionaries({"fromIndex": indexes, "toIndex": indexes, "type": labels}), max_size=8
        ),
        "ruleChainConnections": json_values,
    },
)
chains = (
    metadatas | st.fixed_dictionaries({"ruleChain": json_values, "metadata": metadatas | json_values}) | json_values
)
messages = st.builds(
    Message,
    type=st.sampled_from([*MessageType, "ALARM"]).map(str) | texts,
    originator=st.builds(EntityId, st.sampled_from(["DEVICE", "ASSET", "RULE_NODE", ""]), st.just(DEVICE_ID)),
    data=json_values
    | st.fixed_dictionaries({"method": texts, "params": json_values}, optional={"requestId": json_values}),
    metadata=st.dictionaries(
        st.sampled_from(["ts", "scope", "source", "notifyDevice", "requestId", "serviceId", "sessionId"]) | texts,
        texts | st.sampled_from(["1", "cloud", "true", "SHARED_SCOPE", "9" * 30]),
        max_size=4,
    ),
    ts_ms=st.integers(0, 2**41),
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(tree=chains)
def test_any_json_as_a_file_is_a_chain_or_a_config_error(tree, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("rules") / "chain.json"
    path.write_bytes(orjson.dumps(tree))
    engine = RuleEngine(FakeState(), RulesConfig(root_chain=path), FakeClock(), Counters())
    complaint = None
    try:
        engine.load_files()
    except ConfigError as error:
        complaint = error
    if complaint is None:
        assert sum(chain["root"] for chain in engine.chains()) == 1
    else:
        assert str(path) in complaint.where
        assert complaint.problem


@quick
@given(head=json_values, metadata=metadatas | json_values, message=messages)
def test_any_json_from_the_cloud_never_raises_and_any_message_walks(head, metadata, message):
    rules = Rules()
    head = {**head, "root": True} if isinstance(head, dict) else head
    rules.engine.put_chain(CHAIN_ID, head)
    rules.engine.put_metadata(CHAIN_ID, metadata)
    outcome = rules.engine.process(message)
    assert isinstance(outcome, Outcome)
    assert rules.counters.get("rules.node_bugs") == 0
    for call in outcome.calls:
        call.resume(RpcResponse(response="{"))
        call.resume(RpcResponse(error=RpcError.TIMEOUT))
    orjson.dumps([rules.engine.chains(), [str(problem) for problem in rules.engine.problems()]])
    rules.engine.remove_chain(CHAIN_ID)


SCRIPTED = Rules()
for _index, (_kind, _body) in enumerate(
    [
        ("filter.TbJsFilterNode", "return msg.a > 1;"),
        ("filter.TbJsSwitchNode", "return [msgType, metadata.scope];"),
        ("transform.TbTransformMsgNode", "return {msg: {was: msg}, metadata: msg};"),
        ("transform.TbTransformMsgNode", "return msg;"),
        ("action.TbLogNode", "return msg.length;"),
    ]
):
    SCRIPTED.put(
        UUID(int=_index),
        _kind,
        {
            "firstNodeIndex": 0,
            "nodes": [{"type": P + _kind, "name": "n", "configuration": {"jsScript": _body}}],
            "connections": [],
        },
    )


@quick
@given(message=messages, index=st.integers(0, 4))
def test_any_message_may_meet_a_script(message, index):
    assert isinstance(SCRIPTED.engine.process(message, UUID(int=index)), Outcome)
    assert SCRIPTED.counters.get("rules.node_bugs") == 0
