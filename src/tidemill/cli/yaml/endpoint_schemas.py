"""Azure's YAML of managed online endpoints and deployments, as tables.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-endpoint-online,
https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-managed-online
"""

from __future__ import annotations

from tidemill.cli.yaml.kinds import (
    Choice,
    Either,
    Field,
    Flag,
    Free,
    Integer,
    Items,
    Mapping,
    Record,
    Tagged,
    Text,
)
from tidemill.cli.yaml.schemas import INLINE_ENVIRONMENT, MODEL_TYPES

_LOOSE = Either(scalar=Text(loose=True, empty=True), nothing=True)
_READ_ONLY = Field(Free(), read_only=True)
_SWITCH = Choice(("enabled", "disabled"))
COMMON = {
    "type": Field(Text()),
    "name": Field(Text(), required=True),
    "description": Field(Text(empty=True)),
    "tags": Field(Mapping(_LOOSE, "tag")),
    "properties": Field(Mapping(_LOOSE, "property")),
    "id": _READ_ONLY,
    "kind": _READ_ONLY,
    "provisioning_state": _READ_ONLY,
    "creation_context": _READ_ONLY,
}

ENDPOINT = Record(
    "an online endpoint",
    {
        **COMMON,
        "auth_mode": Field(Choice(("key", "aml_token", "aad_token"))),
        "traffic": Field(Mapping(Integer(), "deployment")),
        "mirror_traffic": Field(Mapping(Integer(), "deployment")),
        "public_network_access": Field(_SWITCH),
        "identity": Field(
            Record(
                "an identity",
                {
                    "type": Field(Choice(("system_assigned", "user_assigned", "none"))),
                    "user_assigned_identities": Field(Items(Free())),
                },
            )
        ),
        "compute": Field(Text()),
        "location": Field(Text()),
        "scoring_uri": _READ_ONLY,
        "openapi_uri": _READ_ONLY,
    },
)

MODEL = Record(
    "a model",
    {
        "name": Field(Text()),
        "version": Field(Text(loose=True)),
        "type": Field(Choice(MODEL_TYPES)),
        "path": Field(Text(), required=True),
        "description": Field(Text(empty=True)),
        "tags": Field(Mapping(_LOOSE, "tag")),
        "properties": Field(Mapping(_LOOSE, "property")),
        "flavors": Field(Free()),
        "datastore": Field(Text()),
    },
)
_PROBE = Record(
    "a probe",
    {
        "initial_delay": Field(Integer()),
        "period": Field(Integer(1)),
        "timeout": Field(Integer(1)),
        "success_threshold": Field(Integer(1)),
        "failure_threshold": Field(Integer(1)),
    },
)
DEPLOYMENT = Record(
    "an online deployment",
    {
        **COMMON,
        "type": Field(Choice(("managed", "kubernetes"))),
        "endpoint_name": Field(Text(), required=True),
        "model": Field(Either(scalar=Text(), record=MODEL)),
        "code_configuration": Field(
            Record(
                "a code_configuration",
                {"code": Field(Text(), required=True), "scoring_script": Field(Text(), required=True)},
            )
        ),
        "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT)),
        "environment_variables": Field(Mapping(_LOOSE, "environment variable")),
        "instance_type": Field(Text()),
        "instance_count": Field(Integer()),
        "request_settings": Field(
            Record(
                "request_settings",
                {
                    "request_timeout_ms": Field(Integer(1)),
                    "max_concurrent_requests_per_instance": Field(Integer(1)),
                    "max_queue_wait_ms": Field(Integer()),
                },
            )
        ),
        "liveness_probe": Field(_PROBE),
        "readiness_probe": Field(_PROBE),
        "scale_settings": Field(
            Tagged(
                "scale_settings",
                "type",
                {
                    "default": Record("default scale_settings", {"type": Field(Text())}),
                    "target_utilization": Record(
                        "target_utilization scale_settings",
                        {
                            "type": Field(Text()),
                            "min_instances": Field(Integer()),
                            "max_instances": Field(Integer(1)),
                            "polling_interval": Field(Integer(1)),
                            "target_utilization_percentage": Field(Integer(1)),
                            "target_requests_per_instance": Field(Integer(1)),
                            "idle_time_before_scale_to_zero": Field(Integer(1)),
                            "park_instance": Field(Flag()),
                        },
                    ),
                },
                default="default",
            )
        ),
        "model_mount_path": Field(Text()),
        "app_insights_enabled": Field(Flag()),
        "egress_public_network_access": Field(_SWITCH),
        "private_network_connection": Field(Flag()),
        "data_collector": Field(Free()),
    },
)
