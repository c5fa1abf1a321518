"""What a workspace of Azure ML has and this one does not: refused by name, never with a bare 404."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.domain.errors import NotOffered
from tidemill.domain.ids import PROVIDER
from tidemill.wire.http import Context, Route

WORKSPACE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}"

TYPES = {
    "serverlessEndpoints": "Serverless endpoints",
    "featuresets": "Feature sets",
    "featurestoreEntities": "Feature store entities",
}


def routes() -> list[Route]:
    found: list[Route] = []
    for kind, called in TYPES.items():
        action = f"{PROVIDER}/workspaces/{kind}"
        base = f"{WORKSPACE}/{kind}"
        refuse = _Refusal(called)
        found.append(Route("GET", base, f"{action}/read", refuse))
        for method, verb in (
            ("GET", "read"),
            ("PUT", "write"),
            ("PATCH", "write"),
            ("POST", "write"),
            ("DELETE", "delete"),
        ):
            found.append(Route(method, base + "/{rest:path}", f"{action}/{verb}", refuse))
    return found


class _Refusal:
    def __init__(self, called: str) -> None:
        self._called = called

    async def __call__(self, ctx: Context) -> Response:
        raise NotOffered(f"{self._called} are not offered by Tidemill yet.", ctx.request.path)
