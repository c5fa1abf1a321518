"""Searching registered models and model versions in MLflow's language."""

from __future__ import annotations

from tidemill.app.services import Services
from tidemill.app.tracking import model_registry
from tidemill.app.tracking.model_registry import ModelVersion, RegisteredModel
from tidemill.app.tracking.tracking_filter import Look, Value, matches, ordered, parse_filter, parse_order
from tidemill.app.tracking.tracking_search import Search, page_of
from tidemill.domain.model import Scope
from tidemill.domain.units import parse_whole

_TIMES = frozenset({"creation_timestamp", "last_updated_timestamp"})
_MODEL_TEXTS = frozenset({"name"})
_VERSION_NUMBERS = frozenset({"version_number", *_TIMES})
_VERSION_TEXTS = frozenset({"name", "run_id", "source_path", "source", "stage", "current_stage"})
_PROMPT = "mlflow.prompt.is_prompt"


async def search_models(s: Services, scope: Scope, search: Search) -> tuple[list[RegisteredModel], str]:
    """-> (models, token of the next page or ""). By name unless ordered."""
    clauses = parse_filter(search.filter, _TIMES, _MODEL_TEXTS)
    orders = parse_order(search.order_by, _TIMES | _MODEL_TEXTS)
    found = [m for m in await model_registry.models(s, scope) if matches(clauses, _model_look(m))]
    return page_of(ordered(found, orders, _model_look), search)


async def search_versions(s: Services, scope: Scope, search: Search) -> tuple[list[ModelVersion], str]:
    """Newest first unless ordered."""
    clauses = parse_filter(search.filter, _VERSION_NUMBERS, _VERSION_TEXTS)
    orders = parse_order(search.order_by, _VERSION_NUMBERS | _VERSION_TEXTS)
    names = [c.value for c in clauses if (c.entity, c.key, c.operator) == ("attribute", "name", "=")]
    held = await model_registry.versions(s, scope, str(names[0]) if names else None)
    found = [version for version in held if matches(clauses, _version_look(version))]
    return page_of(ordered(found, orders, _version_look), search)


def _model_look(model: RegisteredModel) -> Look:
    attributes: dict[str, Value | None] = {
        "name": model.name,
        "creation_timestamp": model.created_at // 1000,
        "last_updated_timestamp": model.updated_at // 1000,
    }
    return _look(attributes, model.tags)


def _version_look(version: ModelVersion) -> Look:
    attributes: dict[str, Value | None] = {
        "name": version.name,
        "version_number": parse_whole(version.version),
        "run_id": version.run_id or None,
        "source_path": version.files,
        "source": version.files,
        "stage": version.stage,
        "current_stage": version.stage,
        "creation_timestamp": version.created_at // 1000,
        "last_updated_timestamp": version.updated_at // 1000,
    }
    return _look(attributes, version.tags)


def _look(attributes: dict[str, Value | None], tags: dict[str, str]) -> Look:
    def look(entity: str, key: str) -> Value | None:
        if entity == "attribute":
            return attributes[key]
        if key == _PROMPT and key not in tags:
            return "false"  # MLflow's clients add `!= 'true'` to what is asked; prompts are not offered
        return tags.get(key) if entity == "tag" else None

    return look
