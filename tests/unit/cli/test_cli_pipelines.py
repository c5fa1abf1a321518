"""Pipelines and components of the command line: YAML with all problems at their places, and the graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.cli import graphs
from tidemill.cli.yaml.blame import trail_of
from tidemill.cli.yaml.document import YamlError
from tidemill.cli.yaml.load import load_job
from tidemill.cli.yaml.pipeline_load import load_component
from tidemill.domain.pipelines.drawing import Drawn, layers, svg, text

COMPONENT = """type: command
name: add
version: 1
inputs:
  n: {type: integer, default: 1}
  d: {type: uri_folder, optional: true}
outputs:
  o: {type: uri_folder}
environment: azureml:plain:1
command: add ${{inputs.n}} $[[${{inputs.d}}]] ${{outputs.o}}
"""
PIPELINE = """type: pipeline
inputs:
  start: 5
settings:
  default_compute: azureml:cpu
jobs:
  first:
    component: ./add.yml
    inputs:
      n: ${{parent.inputs.start}}
  second:
    component: azureml:add:1
    inputs: {d: "${{parent.jobs.first.outputs.o}}"}
  third:
    command: cat ${{inputs.d}}
    environment: azureml:plain:1
    inputs: {d: "${{parent.jobs.second.outputs.o}}"}
"""


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "add.yml", COMPONENT)
    return tmp_path


def problems(path: Path) -> list[str]:
    with pytest.raises(YamlError) as caught:
        load_job(path, (), path.name)
    return str(caught.value).splitlines()


def test_a_pipeline_is_read_with_its_components(folder: Path) -> None:
    spec = load_job(write(folder, "p.yml", PIPELINE))
    assert spec.data["jobs"]["first"]["component"] == "./add.yml"
    assert load_component(folder / "add.yml").data["inputs"]["n"]["default"] == 1


def test_a_file_with_jobs_is_a_pipeline_without_saying_so(folder: Path) -> None:
    spec = load_job(write(folder, "p.yml", PIPELINE.replace("type: pipeline\n", "")))
    assert spec.data["type"] == "pipeline"


def test_all_problems_have_line_and_column(folder: Path) -> None:
    broken = (
        PIPELINE.replace("parent.inputs.start", "parent.inputs.strat")
        .replace("parent.jobs.first.outputs", "parent.jobs.frist.outputs")
        .replace("default_compute", "default_compte")
        .replace("cat ${{inputs.d}}", "cat ${{inputs.dd}}")
    )
    assert problems(write(folder, "p.yml", broken)) == [
        "p.yml:5:3: unknown key 'default_compte' in settings. Did you mean 'default_compute'?",
        "p.yml:10:10: ${{parent.inputs.strat}}: the pipeline has no input 'strat'. Did you mean 'start'?",
        "p.yml:13:18: ${{parent.jobs.frist.outputs.o}}: there is no step 'frist'. Did you mean 'first'?",
        "p.yml:15:18: ${{inputs.dd}}: there is no input 'dd'. Did you mean 'd'?",
    ]


def test_problems_of_a_component_name_its_own_file(folder: Path) -> None:
    write(folder, "add.yml", COMPONENT.replace("integer", "integr").replace("inputs.d}", "inputs.e}"))
    found = problems(write(folder, "p.yml", PIPELINE))
    assert any(line.startswith("./add.yml:5:13: inputs.n.type 'integr' is not one of") for line in found)
    assert any(line.startswith("./add.yml:10:31: ${{inputs.e}}: there is no input 'e'") for line in found)


def test_a_component_that_is_not_there_and_a_step_without_anything(folder: Path) -> None:
    steps = "type: pipeline\njobs:\n  a: {component: ./ad.yml}\n  b: {compute: cpu}\n  c: {type: parallel}\n"
    assert [line.partition(": ")[2][:47] for line in problems(write(folder, "p.yml", steps))] == [
        "jobs.a.component: there is no ad.yml in " + str(folder)[:7],
        "step 'b' needs a component or a command.",
        "parallel step 'c' needs a component, or task.",
        "parallel step 'c' needs a component, or input_d",
    ]


def test_the_graph_of_a_file(folder: Path) -> None:
    steps = graphs.of_file(str(write(folder, "p.yml", PIPELINE)))
    assert text(steps).splitlines() == [
        "● first   command",
        "│ ● second  command  ← first",
        "│ │ ● third   command  ← second",
    ]


def test_the_picture_escapes_names_and_places_steps_in_layers() -> None:
    steps = [Drawn("a"), Drawn("<b>", needs=("a",), state="Failed", link="x'y"), Drawn("c", needs=("a",))]
    assert [[step.name for step in row] for row in layers(steps)] == [["a"], ["<b>", "c"]]
    picture = svg(steps, "T")
    assert "<b>" not in picture
    assert "&lt;b&gt;" in picture
    assert "x&#x27;y" in picture
    assert picture.count("<path") == 4
    assert "style=" not in picture


def test_a_circle_is_drawn_too() -> None:
    steps = [Drawn("a", needs=("b",)), Drawn("b", needs=("a",))]
    assert sum(len(row) for row in layers(steps)) == 2


def test_what_the_server_refuses_of_a_step_leads_to_its_place() -> None:
    assert trail_of("properties.jobs.trainModel.inputs.learningRate") == (
        "jobs",
        "trainModel",
        "inputs",
        "learningRate",
    )
    assert trail_of("properties.jobs.a.componentId") == ("jobs", "a", "component")
    assert trail_of("properties.inputs.data.uri") == ("inputs", "data", "path")
