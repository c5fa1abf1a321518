"""Environments by name: registered ones, curated ones, and what a mistyped name is told."""

from __future__ import annotations

import pytest

from tidemill.app.assets.environments import plan_environment
from tidemill.domain.errors import NotFound


@pytest.mark.parametrize("given", ["azureml:AzureML-sklern-1.5:1", "azureml:azureml-sklern-1.5@latest"])
async def test_a_mistyped_curated_name_is_told_the_one_that_is_meant(services, scope, given):
    with pytest.raises(NotFound, match=r"was not found .* Did you mean 'AzureML-sklearn-1\.5'\?"):
        await plan_environment(services, scope, given)


async def test_a_name_like_nothing_is_not_told_of_curated_ones(services, scope):
    with pytest.raises(NotFound, match="There are none yet"):
        await plan_environment(services, scope, "azureml:zzz:1")
