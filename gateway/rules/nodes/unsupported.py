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


def _refuses(title: str) -> Callable[[NoConfig, NodeEnv], Run]:
    def make(config: NoConfig, env: NodeEnv) -> Run:
        raise RejectedError(f"{title!r} is not supported by this gateway")

    return make


for _type, _title in _TITLES.items():
    REGISTRY[_type] = NodeKind(_type, _title, NoConfig, _refuses(_title), is_supported=False)
