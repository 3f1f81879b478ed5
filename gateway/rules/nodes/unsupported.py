"""Stock nodes that this gateway does not run: the chain loads, such a node answers `Failure` and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import RejectedError
from gateway.rules.node import REGISTRY, NoConfig, NodeEnv, NodeKind, Run

_TITLES: Final = {
    "mail.TbMsgToEmailNode": "to email",
    "action.TbAssignToCustomerNode": "assign to customer",
    "action.TbUnassignFromCustomerNode": "unassign from customer",
    "action.TbCopyAttributesToEntityViewNode": "copy to view",
    "action.TbSaveToCustomCassandraTableNode": "save to custom table",
    "rest.TbSendRestApiCallReplyNode": "rest call reply",
    "edge.TbMsgPushToEdgeNode": "push to edge",
    "kafka.TbKafkaNode": "kafka",
    "rabbitmq.TbRabbitMqNode": "rabbitmq",
    "mqtt.azure.TbAzureIotHubNode": "azure iot hub",
    "aws.lambda.TbAwsLambdaNode": "aws lambda",
    "aws.sns.TbSnsNode": "aws sns",
    "aws.sqs.TbSqsNode": "aws sqs",
    "gcp.pubsub.TbPubSubNode": "gcp pubsub",
    "mail.TbSendEmailNode": "send email",
    "sms.TbSendSmsNode": "send sms",
    "notification.TbNotificationNode": "send notification",
    "notification.TbSlackNode": "send to slack",
    "ai.TbAiNode": "AI request",
}


_OWNED_BY_THE_CLOUD: Final = "who a device belongs to is decided in the cloud"
_MAIL: Final = "mail, SMS and notifications are sent by the cloud: push it there"
_WHY: Final = {
    "mail.TbMsgToEmailNode": _MAIL,
    "mail.TbSendEmailNode": _MAIL,
    "sms.TbSendSmsNode": _MAIL,
    "notification.TbNotificationNode": _MAIL,
    "notification.TbSlackNode": _MAIL,
    "action.TbAssignToCustomerNode": _OWNED_BY_THE_CLOUD,
    "action.TbUnassignFromCustomerNode": _OWNED_BY_THE_CLOUD,
    "action.TbCopyAttributesToEntityViewNode": "entity views are the cloud's",
    "action.TbSaveToCustomCassandraTableNode": "there is no Cassandra here",
    "rest.TbSendRestApiCallReplyNode": "no REST request enters the rules here",
    "edge.TbMsgPushToEdgeNode": "it works in the cloud only; here it is 'push to cloud'",
}
_OUTSIDE: Final = "services outside are the cloud's business: push it there, or use 'rest api call' or 'mqtt'"


def _refuses(title: str, why: str) -> Callable[[NoConfig, NodeEnv], Run]:
    def make(config: NoConfig, env: NodeEnv) -> Run:
        raise RejectedError(f"{title!r} is not supported by this gateway: {why}")

    return make


for _type, _title in _TITLES.items():
    REGISTRY[_type] = NodeKind(_type, _title, NoConfig, _refuses(_title, _WHY.get(_type, _OUTSIDE)), is_supported=False)
