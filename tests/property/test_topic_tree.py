"""Both trees agree with the rules of MQTT written down plainly."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.acl import _covers, _level, _overlap
from gateway.broker.topic_tree import FilterTree, TopicTree

topics = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
filters = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
) | st.just("#")


def matches(topic_filter: str, topic: str) -> bool:
    if topic[:1] == "$" and topic_filter[:1] in ("+", "#"):
        return False
    wanted, given_ = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(given_) or level not in ("+", given_[index]):
            return False
    return len(wanted) == len(given_)


@given(
    st.lists(st.tuples(filters, st.integers(0, 3), st.integers(0, 2)), max_size=8),
    st.lists(topics, max_size=4),
    st.data(),
)
def test_who_hears_what(subscriptions, published, data):
    tree: FilterTree[int] = FilterTree()
    kept: dict[tuple[str, int], int] = {}
    for topic_filter, who, qos in subscriptions:
        tree.add(topic_filter, who, qos)
        kept[topic_filter, who] = qos
    for place in data.draw(st.lists(st.sampled_from(sorted(kept)), max_size=4)) if kept else ():
        tree.remove(*place)
        kept.pop(place, None)
    for topic in published:
        wanted: dict[int, int] = {}
        for (topic_filter, who), qos in kept.items():
            if matches(topic_filter, topic):
                wanted[who] = max(qos, wanted.get(who, 0))
        assert tree.matching(topic) == wanted


@given(st.lists(topics, max_size=8), st.lists(topics, max_size=3), filters)
def test_which_topics_a_filter_finds(put, popped, topic_filter):
    tree: TopicTree[str] = TopicTree()
    for topic in put:
        tree.put(topic, topic)
    for topic in popped:
        tree.pop(topic)
    left = set(put) - set(popped)
    found = list(tree.topics(topic_filter))
    assert sorted(found) == sorted(topic for topic in left if matches(topic_filter, topic))
    assert len(tree) == len(left)


@given(filters, filters, topics)
def test_what_overlaps_and_covers(one, two, topic):
    a, b = (tuple(_level(level, "", "") for level in each.split("/")) for each in (one, two))
    if "$" not in topic and matches(one, topic) and matches(two, topic):
        assert _overlap(a, b)
    if "$" not in topic and _covers(a, b) and matches(two, topic):
        assert matches(one, topic)
