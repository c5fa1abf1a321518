"""The same job through Microsoft's own SDK: nothing here knows about Tidemill.

eval "$(tidemill env)" && python submit_sdk.py
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.entities import AmlCompute, Environment, Model
from azure.identity import DefaultAzureCredential

here = Path(__file__).resolve().parent
client = MLClient(
    DefaultAzureCredential(),
    os.environ["AZURE_SUBSCRIPTION_ID"],
    os.environ["AZURE_RESOURCE_GROUP"],
    os.environ["AZUREML_WORKSPACE_NAME"],
)
print("workspace:", client.workspaces.get(os.environ["AZUREML_WORKSPACE_NAME"]).name)

cluster = client.compute.begin_create_or_update(
    AmlCompute(
        name="cpu-cluster",
        size="Standard_DS3_v2",
        min_instances=0,
        max_instances=2,
        idle_time_before_scale_down=120,
    )
).result()
print("cluster:", cluster.name, cluster.size, f"{cluster.min_instances}..{cluster.max_instances} nodes")

job = client.jobs.create_or_update(
    command(
        code=str(here / "src"),
        command="python train.py --settings ${{inputs.settings}} --test-share ${{inputs.test_share}} "
        "--model ${{outputs.model}}",
        inputs={
            "settings": Input(type="uri_file", path=str(here / "settings.json")),
            "test_share": 0.25,
        },
        outputs={"model": Output(type="custom_model", mode="upload")},
        environment=Environment(
            image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04",
            conda_file=str(here / "environment" / "conda.yml"),
        ),
        compute="cpu-cluster",
        experiment_name="digits",
        display_name="train-digits-sdk",
    )
)
print("submitted:", job.name)
client.jobs.stream(job.name)
job = client.jobs.get(job.name)
print("status:", job.status)
if job.status != "Completed":
    sys.exit(1)

with tempfile.TemporaryDirectory() as folder:
    client.jobs.download(job.name, download_path=folder, all=True)
    client.jobs.download(job.name, download_path=folder, output_name="model")
    found = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
    print("downloaded:", *found, sep="\n  ")
    weights = next(Path(folder).rglob("model.pkl")).read_bytes()
    print("model.pkl:", len(weights), "bytes")

model = client.models.create_or_update(
    Model(
        name="digits-sdk",
        path=f"azureml://jobs/{job.name}/outputs/model",
        type="custom_model",
        description=f"From job {job.name}, {time.strftime('%Y-%m-%d')}",
    )
)
print("registered:", model.name, "version", model.version)
