"""An instance of a deployment: what makes a job a service, and how it is doing. Parts of a job's status."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.serving.model import Probe

PORT = 5001  # of the scoring server, in a network of the instance's own; else one that was free
MODELS = "azureml-models"  # as in Azure's containers: MODELS/NAME/VERSION is AZUREML_MODEL_DIR
MOUNT = f"/var/azureml-app/{MODELS}"  # where containers of users' own find models, unless they say where
STATE_FILE = "scoring/state.json"  # below the attempt's directory; written by the scoring server


@dataclass(frozen=True, slots=True)
class Route:
    port: int
    path: str = "/"


@dataclass(frozen=True, slots=True)
class Container:
    """An environment's `inferenceConfig`: its image brings a server of its own, started by the image's own
    command. It is asked at these routes; `scoring` is where requests to the endpoint's address go."""

    liveness: Route
    readiness: Route
    scoring: Route


@dataclass(frozen=True, slots=True)
class StagedModel:
    """Where a model's bytes come from, and the folder that they are put in, below the attempt's directory:
    AZUREML_MODEL_DIR. `name`: what the folder or file is called there."""

    account: str
    container: str
    path: str
    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class PlannedService:
    """`generation`: of the deployment's plan that it was made from. `script`: below the code folder, "" where
    the model needs none; `model_type` of such a one. `container`: the image's own server runs, not ours.
    `mount`: models are shown below that, too, "" nowhere. `drain_s`: what it gets to finish requests in."""

    generation: int
    script: str = ""
    model: StagedModel | None = None
    model_type: str = ""
    liveness: Probe = field(default_factory=Probe)
    readiness: Probe = field(default_factory=Probe)
    drain_s: float = 10.0
    container: Container | None = None
    mount: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """One end of an instance's process. `code`: as a failed job's; `message`: a sentence, with a traceback
    where there is one."""

    at: int
    code: str
    message: str
    killed: bool = False  # by a signal that its program did not cause


@dataclass(frozen=True, slots=True)
class InstanceProgress:
    """All but `draining_at` is of the attempt with the number `attempt`. `ready`: it answers now.
    `draining_at`: it is to get no more requests since then. `parked_at`: it stands still since then;
    `woken_at`: it was woken from that."""

    attempt: int = 0
    started_at: int = 0
    port: int = 0
    ready: bool = False
    ever_ready: bool = False
    restarts: int = 0
    unready: str = ""  # why it stopped being ready
    ended: Ended | None = None  # how its process ended last
    draining_at: int | None = None
    parked_at: int | None = None
    woken_at: int | None = None
