"""Who there is: people, groups, programs, and the identities of computes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PrincipalKind(StrEnum):
    """ARM knows the first three; it shows a managed identity as a ServicePrincipal."""

    USER = "User"
    GROUP = "Group"
    SERVICE_PRINCIPAL = "ServicePrincipal"
    MANAGED_IDENTITY = "ManagedIdentity"

    @property
    def arm(self) -> str:
        return "ServicePrincipal" if self is PrincipalKind.MANAGED_IDENTITY else self.value


@dataclass(frozen=True, slots=True)
class Principal:
    """`oid` is a GUID and never given again. `name` is what people type: unique, cases not told apart."""

    oid: str
    kind: PrincipalKind
    name: str
    display_name: str = ""
    app_id: str = ""  # the client id of a program or of a managed identity; "" for people and groups
    resource: str = ""  # a system-assigned identity: the ARM id of the compute it goes with
    disabled: bool = False  # its tokens are dead, its assignments stay
    created_at: int = 0
    created_by: str = ""
    revision: int = 1

    @property
    def shown(self) -> str:
        return self.display_name or self.name
