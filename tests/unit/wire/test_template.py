"""The ARM template language."""

from __future__ import annotations

import pytest

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.model import Scope
from tidemill.wire.arm.template import resources_of

SCOPE = Scope("sub-1", "grp")


def evaluate(expression, *, parameters=None, declared=None, variables=None):
    template = {
        "parameters": declared or {name: {"type": "string"} for name in parameters or {}},
        "variables": variables or {},
        "resources": [{"type": "A/b", "name": "n", "properties": {"x": expression}}],
    }
    given = {name: {"value": value} for name, value in (parameters or {}).items()}
    found = resources_of(template, given, SCOPE, tenant="ten", location="eastus", whole=lambda _: True)
    return found[0].body["properties"]["x"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("plain", "plain"),
        ("[[literal]", "[literal]"),
        (7, 7),
        ("['it''s']", "it's"),
        ("[concat('a', 'b', 3)]", "ab3"),
        ("[if(equals('A', 'a'), 'yes', reference('boom'))]", "yes"),
        ("[and(true(), not(empty('x')), or(false(), equals(1, 1)))]", True),
        ("[toLower('ABC')]", "abc"),
        ("[json('{\"a\":[1,2]}').a[1]]", 2),
        ("[json('null')]", None),
        ("[subscription().subscriptionId]", "sub-1"),
        ("[resourceGroup().name]", "grp"),
        ("[format('{0}-{1}', 'a', 2)]", "a-2"),
        ("[resourceId('N/t', 'x')]", "/subscriptions/sub-1/resourceGroups/grp/providers/N/t/x"),
        (
            "[resourceId('g2', 'N/t/u', 'x', 'y')]",
            "/subscriptions/sub-1/resourceGroups/g2/providers/N/t/x/u/y",
        ),
        ("[resourceId('s2', 'g2', 'N/t', 'x')]", "/subscriptions/s2/resourceGroups/g2/providers/N/t/x"),
        ({"deep": ["[parameters('p')]"]}, {"deep": ["v"]}),
    ],
)
def test_expressions(expression, value):
    assert evaluate(expression, parameters={"p": "v"}) == value


def test_values_of_the_caller_are_data_not_expressions():
    assert (
        evaluate("[parameters('p')]", parameters={"p": "[resourceGroup().name]"}) == "[resourceGroup().name]"
    )


def test_defaults_and_variables_are_expressions():
    declared = {"p": {"type": "string", "defaultValue": "[concat(resourceGroup().name, '-x')]"}}
    assert evaluate("[variables('v')]", declared=declared, variables={"v": "[parameters('p')]"}) == "grp-x"


def test_unique_string_depends_on_its_values():
    one, same, other = (evaluate(f"[uniqueString('a', '{x}')]") for x in ("b", "b", "c"))
    assert one == same != other
    assert len(one) == 13


UNREADABLE = (
    "[concat('a']",
    "[concat(,)]",
    "[parameters('none')]",
    "[x]",
    "[json('{')]",
    "[resourceId('x')]",
    "[]",
    "[" + "concat(" * 200 + "'a'" + ")" * 200 + "]",
)


@pytest.mark.parametrize("expression", UNREADABLE)
def test_what_cannot_be_read_is_an_error_of_the_template(expression):
    with pytest.raises(InvalidRequest):
        evaluate(expression)


def test_unknown_function_and_self_reference():
    with pytest.raises(NotOffered, match="listKeys"):
        evaluate("[listKeys('x')]")
    with pytest.raises(InvalidRequest, match="itself"):
        evaluate("[variables('a')]", variables={"a": "[variables('b')]", "b": "[variables('a')]"})


def test_format_does_not_reach_into_objects():
    assert evaluate("[format('{0.__class__}', 'x')]") == "{0.__class__}"


def test_conditions_and_nested_resources():
    template = {
        "parameters": {"on": {"type": "string", "defaultValue": "false"}},
        "resources": [
            {"condition": "[equals(parameters('on'), 'true')]", "type": "A/b", "name": "off"},
            {"type": "A/b", "name": "outer", "resources": [{"type": "c", "name": "inner"}]},
        ],
    }
    names = lambda given: [  # noqa: E731
        (r.type, r.name)
        for r in resources_of(template, given, SCOPE, tenant="t", location="l", whole=lambda _: False)
    ]
    assert names({}) == [("A/b", "outer"), ("A/b/c", "outer/inner")]
    assert ("A/b", "off") in names({"on": {"value": "true"}})
    with pytest.raises(InvalidRequest, match="typo"):
        names({"typo": {"value": 1}})
