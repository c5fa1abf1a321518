"""One whole and right body for each kind of thing that can be sent: what the fuzz changes.

`(method, path, body)`. `{W}` workspace, `{G}` group, `{S}` subscription, `{n}` a new number, `{guid}` a new
GUID, `EXP` and `RUN` an experiment and a run that are there.
"""

from __future__ import annotations

from typing import Any

ML = "/mlflow/v1.0{W}/api/2.0/mlflow"
AUTH = "{G}/providers/Microsoft.Authorization"
PROVIDER = "Microsoft.MachineLearningServices"
STORED = "azureml://datastores/workspaceblobstore/paths/x/"

JOB = {
    "jobType": "Command",
    "command": "echo ${{inputs.a}}",
    "displayName": "d",
    "description": "x",
    "experimentName": "e",
    "computeId": "{W}/computes/never",  # refused at the end: nothing runs
    "environmentId": "azureml:AzureML-sklearn-1.5@latest",
    "codeId": "",
    "isArchived": False,
    "tags": {"a": "b", "tidemill.team": ""},
    "properties": {"p": "q"},
    "environmentVariables": {"A": "1"},
    "inputs": {
        "a": {"jobInputType": "literal", "value": "1"},
        "f": {"jobInputType": "uri_file", "uri": STORED + "f", "mode": "ReadOnlyMount"},
    },
    "outputs": {
        "o": {
            "jobOutputType": "uri_folder",
            "mode": "ReadWriteMount",
            "uri": "",
            "assetName": "n",
            "assetVersion": "1",
        }
    },
    "limits": {"jobLimitsType": "Command", "timeout": "PT1M"},
    "resources": {"instanceCount": 1, "instanceType": "Standard_DS1_v2", "properties": {}, "shmSize": "1g"},
    "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 1},
    "queueSettings": {"jobTier": "Standard", "priority": 2},
    "identity": {"identityType": "AMLToken"},
    "services": {"s": {"jobServiceType": "ssh", "port": 1, "properties": {"sshPublicKeys": "x"}}},
}
SCALE = {"minNodeCount": 0, "maxNodeCount": 2, "nodeIdleTimeBeforeScaleDown": "PT2M"}
COMPUTE = {
    "location": "local",
    "tags": {"a": "b"},
    "identity": {"type": "SystemAssigned"},
    "properties": {
        "computeType": "AmlCompute",
        "description": "x",
        "properties": {
            "vmSize": "STANDARD_DS3_V2",
            "vmPriority": "Dedicated",
            "osType": "Linux",
            "isolatedNetwork": False,
            "remoteLoginPortPublicAccess": "Disabled",
            "enableNodePublicIp": True,
            "scaleSettings": SCALE,
            "subnet": {"id": "/s"},
            "userAccountCredentials": {"adminUserName": "u", "adminUserPassword": "p"},
        },
    },
}
ENVIRONMENT = {
    "image": "python:3",
    "condaFile": "name: x\ndependencies:\n  - python=3.11\n  - pip:\n    - numpy",
    "description": "d",
    "tags": {},
    "osType": "Linux",
    "build": {"contextUri": "x", "dockerfilePath": "y"},
    "inferenceConfig": {"livenessRoute": {"path": "/", "port": 1}},
}
DATA = {"dataType": "uri_folder", "dataUri": STORED, "description": "d", "tags": {}, "isArchived": False}
MODEL = {
    "modelUri": STORED,
    "modelType": "custom_model",
    "flavors": {"f": {"data": {"a": "b"}}},
    "jobName": "x",
}
DATASTORE = {
    "datastoreType": "AzureBlob",
    "accountName": "acct",
    "containerName": "c",
    "endpoint": "core.windows.net",
    "protocol": "https",
    "credentials": {"credentialsType": "AccountKey", "secrets": {"secretsType": "AccountKey", "key": "aGk="}},
    "tags": {},
}
CONNECTION = {
    "category": "ContainerRegistry",
    "target": "https://registry",
    "authType": "UsernamePassword",
    "credentials": {"username": "u", "password": "p"},
    "metadata": {"a": "b"},
}
TEMPLATE = {
    "$schema": "x",
    "contentVersion": "1.0.0.0",
    "parameters": {"p": {"type": "string", "defaultValue": "x"}},
    "variables": {"v": "[concat('a','b')]"},
    "resources": [
        {
            "type": f"{PROVIDER}/never",
            "apiVersion": "x",
            "name": "[parameters('p')]",
            "location": "local",
            "properties": {"friendlyName": "[variables('v')]"},
            "dependsOn": ["x"],
        }
    ],
    "outputs": {},
}
TAGS = [{"key": "a", "value": "b"}]
METRIC = {"key": "k", "value": 1.0, "timestamp": 1, "step": 0}
DATASET = {"name": "n", "digest": "d", "source_type": "s", "source": "{}", "schema": "x", "profile": "y"}
FILTER = "metrics.k > 1 and params.p = 'x' and tags.`a b` != 'c'"
ROLE = {
    "roleName": "fz{n}",
    "description": "d",
    "type": "CustomRole",
    "assignableScopes": ["{G}"],
    "permissions": [{"actions": ["*/read"], "notActions": [], "dataActions": [], "notDataActions": []}],
}
ASSIGNMENT = {
    "roleDefinitionId": AUTH + "/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "principalId": "x",
    "principalType": "User",
    "description": "d",
    "condition": "x",
}
CHECK = {
    "Subject": {"Attributes": {"ObjectId": "x"}},
    "Actions": [{"Id": "x", "IsDataAction": False}],
    "Resource": {"Id": "{W}"},
}

SEEDS: tuple[tuple[str, str, Any], ...] = (
    ("PUT", "{W}/jobs/fz{n}", {"properties": JOB}),
    ("PUT", "{W}/jobs/run{n}", {"properties": {"command": "true", "tags": {"a": "b"}, "properties": {}}}),
    ("PUT", "{W}/computes/fz{n}", COMPUTE),
    ("PATCH", "{W}/computes/cpu", {"properties": {"properties": {"scaleSettings": SCALE}}}),
    ("PUT", "{W}/data/fz/versions/{n}", {"properties": DATA}),
    ("PUT", "{W}/environments/fz/versions/{n}", {"properties": ENVIRONMENT}),
    ("PUT", "{W}/models/fz/versions/{n}", {"properties": MODEL}),
    (
        "PUT",
        "{W}/codes/fz/versions/{n}",
        {"properties": {"codeUri": STORED, "properties": {"hash_sha256": "x"}}},
    ),
    ("PUT", "{W}/datastores/fz{n}", {"properties": DATASTORE}),
    ("PUT", "{W}/connections/fz{n}", {"properties": CONNECTION}),
    ("PATCH", "{W}", {"tags": {"a": "b"}, "properties": {"friendlyName": "f", "description": "d"}}),
    ("PUT", "{S}/resourceGroups/fz{n}", {"location": "local", "tags": {"a": "b"}}),
    (
        "PUT",
        "{G}/providers/Microsoft.Resources/deployments/fz{n}",
        {"properties": {"mode": "Incremental", "template": TEMPLATE, "parameters": {"p": {"value": "x"}}}},
    ),
    (
        "PUT",
        "/api/v1/quotas",
        {
            "kind": "user",
            "name": "*",
            "workspace": "{W}",
            "limits": {"jobs": 500},
            "weight": 0,
            "default_team": "x",
        },
    ),
    (
        "POST",
        "{S}/providers/" + PROVIDER + "/locations/local/updateQuotas",
        {
            "value": [{"id": "{W}/quotas/cores", "type": "x", "limit": 500, "unit": "Count"}],
            "location": "local",
        },
    ),
    (
        "POST",
        "/api/v1/access/principals",
        {"kind": "User", "name": "fz{n}", "display_name": "x", "app_id": "y"},
    ),
    ("POST", "/api/v1/access/explain", {"who": "root", "action": "jobs/read", "scope": "{W}", "data": False}),
    ("POST", "/api/v1/portal/link", {"next": "/ui/x"}),
    ("PUT", AUTH + "/roleDefinitions/{guid}", {"properties": ROLE}),
    ("PUT", AUTH + "/roleAssignments/{guid}", {"properties": ASSIGNMENT}),
    ("POST", AUTH + "/checkAccess", CHECK),
    ("POST", ML + "/experiments/create", {"name": "fz{n}", "artifact_location": "x", "tags": TAGS}),
    (
        "POST",
        ML + "/experiments/search",
        {
            "max_results": 5,
            "page_token": "x",
            "filter": "name = 'x'",
            "order_by": ["name ASC"],
            "view_type": "ALL",
        },
    ),
    ("POST", ML + "/experiments/update", {"experiment_id": "x", "new_name": "y"}),
    ("POST", ML + "/runs/create", {"experiment_id": "EXP", "run_name": "r", "start_time": 1, "tags": TAGS}),
    ("POST", ML + "/runs/update", {"run_id": "RUN", "status": "RUNNING", "end_time": 5, "run_name": "z"}),
    ("POST", ML + "/runs/log-metric", {"run_id": "RUN", **METRIC}),
    ("POST", ML + "/runs/log-parameter", {"run_id": "RUN", "key": "k{n}", "value": "v"}),
    (
        "POST",
        ML + "/runs/log-batch",
        {"run_id": "RUN", "metrics": [METRIC], "params": [{"key": "p{n}", "value": "v"}], "tags": TAGS},
    ),
    ("POST", ML + "/runs/set-tag", {"run_id": "RUN", "key": "k", "value": "v"}),
    ("POST", ML + "/runs/log-inputs", {"run_id": "RUN", "datasets": [{"tags": TAGS, "dataset": DATASET}]}),
    ("POST", ML + "/runs/log-model", {"run_id": "RUN", "model_json": "{}"}),
    ("POST", ML + "/runs/outputs", {"run_id": "RUN", "models": [{"model_id": "m-1", "step": 1}]}),
    ("POST", ML + "/registered-models/create", {"name": "fz{n}", "description": "x", "tags": TAGS}),
    (
        "POST",
        ML + "/logged-models",
        {
            "experiment_id": "EXP",
            "name": "fz{n}",
            "model_type": "x",
            "source_run_id": "RUN",
            "params": TAGS,
            "tags": TAGS,
        },
    ),
    (
        "POST",
        ML + "/logged-models/search",
        {
            "experiment_ids": ["EXP"],
            "filter": "name = 'x'",
            "datasets": [{"dataset_name": "d", "dataset_digest": "1"}],
            "max_results": 5,
            "order_by": [{"field_name": "metrics.k", "ascending": False}],
            "page_token": "",
        },
    ),
    (
        "POST",
        ML + "/runs/search",
        {
            "experiment_ids": ["EXP"],
            "filter": FILTER,
            "max_results": 3,
            "order_by": ["metrics.k DESC"],
            "page_token": "",
        },
    ),
)

QUERIES = (
    "%24top=-1",
    "%24top=" + "9" * 5_000,
    "%24top=%C2%B2",  # a digit that is no number
    "top=%00",
    "%24skipToken=%27",
    "limit=-1",
    "limit=1e9",
    "limit=%D9%A1",
    "limit=%C2%B2",
    "offset=-5",
    "offset=" + "9" * 5_000,
    "after=%ff",
    "after=%C2%B2:%C2%B2",
    "timeout=nan",
    "timeout=-inf",
    "state=x",
    "archived=%00",
    "since=9999999",
    "until=%ff",
    "next=//evil",
    "x=1&x=2&" * 500,
    "max_results=-1",
    "max_results=zz",
    "page_token=%ff",
    "page_token=b2Zmc2V0IMKy",
    "filter=%28%28%28",
    "%24filter=eventTimestamp+ge+%27x%27",
    "run_id=%00",
    "path=..%2f..",
    "order_by=%27",
    "against=1:zz",
    "who=%00",
    "region=%00",
    "compute=%00",
    "workspace=%2f",
    "nodes=%C2%B2",
    "size=%00",
    "job=..",
    "team=%00",
    "listViewType=7",
    "tag=%00",
    "properties=%7B",
    "name=%ff",
    "correlation=%00",
    "scope=%00",
    "hash=%00",
    "metric_key=%00",
    "code=%00",
    "api-version=%00",
    "&&&===&",
)
