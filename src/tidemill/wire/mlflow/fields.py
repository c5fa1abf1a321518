"""Reading MLflow's JSON, which is protobuf's: int64 as number or text, NaN and infinity as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from tidemill.domain.errors import InvalidRequest
from tidemill.store.tracking import Metric, ModelMetric
from tidemill.wire.http import Context

T = TypeVar("T")

_INT64 = 2**63
_NOT_FINITE = {"nan": "nan", "infinity": "inf", "-infinity": "-inf"}


class MetricIn(msgspec.Struct):
    key: str
    value: int | float | str = 0.0
    timestamp: int | str | None = None
    step: int | str = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class PairIn(msgspec.Struct):
    key: str
    value: str = ""


class LogBatch(msgspec.Struct):
    run_id: str = ""
    run_uuid: str = ""
    metrics: list[MetricIn] = []
    params: list[PairIn] = []
    tags: list[PairIn] = []


class LogMetric(MetricIn, kw_only=True):
    run_id: str = ""
    run_uuid: str = ""


class LogPair(PairIn, kw_only=True):
    run_id: str = ""
    run_uuid: str = ""


class DeleteTag(msgspec.Struct):
    key: str
    run_id: str = ""


class CreateRun(msgspec.Struct):
    experiment_id: str = ""
    user_id: str = ""
    run_name: str = ""
    start_time: int | str | None = None
    tags: list[PairIn] = []


class UpdateRun(msgspec.Struct):
    run_id: str = ""
    run_uuid: str = ""
    status: str | None = None
    end_time: int | str | None = None
    run_name: str = ""


class RunId(msgspec.Struct):
    run_id: str = ""


class LogInputs(msgspec.Struct):
    run_id: str = ""
    datasets: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []


class LogOutputs(msgspec.Struct):
    run_id: str = ""
    models: list[dict[str, Any]] = []


class CreateLoggedModel(msgspec.Struct):
    experiment_id: str = ""
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: list[PairIn] = []
    tags: list[PairIn] = []


class LoggedModelChange(msgspec.Struct):
    status: str = ""
    params: list[PairIn] = []
    tags: list[PairIn] = []


class DatasetIn(msgspec.Struct):
    dataset_name: str
    dataset_digest: str = ""


class OrderIn(msgspec.Struct):
    field_name: str
    ascending: bool = True


class SearchModels(msgspec.Struct):
    experiment_ids: list[str] = []
    filter: str = ""
    datasets: list[DatasetIn] = []
    max_results: int | str = 50
    order_by: list[OrderIn] = []
    page_token: str = ""


class LogModel(msgspec.Struct):
    model_json: str
    run_id: str = ""


class SearchIn(msgspec.Struct):
    experiment_ids: list[str] = []
    filter: str = ""
    run_view_type: str = "ACTIVE_ONLY"
    view_type: str = "ACTIVE_ONLY"
    max_results: int | str = 1000
    order_by: list[str] = []
    page_token: str = ""


class CreateExperiment(msgspec.Struct):
    name: str
    artifact_location: str = ""
    tags: list[PairIn] = []


class ExperimentId(msgspec.Struct):
    experiment_id: str


class UpdateExperiment(msgspec.Struct):
    experiment_id: str
    new_name: str = ""


class ExperimentTag(msgspec.Struct):
    experiment_id: str
    key: str
    value: str = ""


class RegisteredModelIn(msgspec.Struct):
    name: str
    description: str = ""
    tags: list[PairIn] = []


class ModelTag(msgspec.Struct):
    name: str
    key: str
    version: str = ""
    value: str = ""


class ModelAlias(msgspec.Struct):
    name: str
    alias: str
    version: str = ""


class LatestVersions(msgspec.Struct):
    name: str
    stages: list[str] = []


class ModelVersionIn(msgspec.Struct):
    name: str
    version: str = ""
    source: str = ""
    description: str = ""
    run_id: str = ""
    run_link: str = ""
    model_id: str = ""
    tags: list[PairIn] = []


class Transition(msgspec.Struct):
    name: str
    version: str
    stage: str
    archive_existing_versions: bool = False


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


async def read(ctx: Context, kind: type[T]) -> T:
    """The body as `kind`. Raises InvalidRequest with the decoder's place; unknown fields are left alone."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(await ctx.request.body() or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not as MLflow defines it: {error}.") from error


def from_query(ctx: Context, kind: type[T]) -> T:
    """The query as `kind`: what MLflow reads with GET."""
    try:
        return msgspec.convert(ctx.request.query, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The query is not as MLflow defines it: {error}.") from error


def wanted(ctx: Context, name: str) -> str:
    """What the query must have."""
    value = ctx.request.query.get(name, "")
    if not value:
        raise InvalidRequest(f"{name!r} is missing.", target=name)
    return value


def listed(ctx: Context, name: str) -> list[str]:
    """What the query may have any number of times."""
    raw = ctx.request.scope["query_string"].decode("latin-1")
    return [value for key, value in parse_qsl(raw) if key == name]


def run_id_of(run_id: str, older: str = "") -> str:
    """`run_uuid` is what old clients call it."""
    if not (run_id or older):
        raise InvalidRequest("'run_id' is missing.", target="run_id")
    return run_id or older


def int64(value: int | str, name: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise InvalidRequest(f"{name!r} is {value!r}: it must be a whole number.", target=name) from None
    if not -_INT64 <= number < _INT64:
        raise InvalidRequest(f"{name!r} is {value!r}: it must fit into 64 bits.", target=name)
    return number


def double(value: float | str, name: str) -> float:
    if isinstance(value, str):
        try:
            return float(_NOT_FINITE.get(value.lower(), value))
        except ValueError:
            raise InvalidRequest(f"The value of metric {name!r} is {value!r}: it must be a number.") from None
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(f"The value of metric {name!r} is too large for a float.") from None


def micros(value: int | str | None, name: str) -> int | None:
    """MLflow's milliseconds. 0 is 'not given' in protobuf."""
    if not value:
        return None
    millis = int64(value, name)
    if abs(millis) > _INT64 // 1000:
        raise InvalidRequest(f"{name!r} is {value!r}: no time in milliseconds is that large.", target=name)
    return millis * 1000


def metric(given: MetricIn, now_ms: int) -> Metric:
    at = now_ms if given.timestamp is None else int64(given.timestamp, "timestamp")
    return Metric(given.key, double(given.value, given.key), at, int64(given.step, "step"))


def model_metric(given: MetricIn, point: Metric, run_id: str) -> ModelMetric:
    where = (run_id, given.dataset_name, given.dataset_digest)
    return ModelMetric(point.key, point.value, point.timestamp_ms, point.step, *where)


def pairs(given: Sequence[PairIn]) -> tuple[tuple[str, str], ...]:
    return tuple((pair.key, pair.value) for pair in given)


def mapping(given: Sequence[PairIn]) -> Mapping[str, str]:
    return {pair.key: pair.value for pair in given}


def page_size(value: int | str, most: int) -> int:
    size = int64(value, "max_results")
    if not 1 <= size <= most:
        raise InvalidRequest(f"max_results is {size}: it must be from 1 to {most}.", target="max_results")
    return size
