"""The reader of Azure's YAML: what is wrong, where, and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.yaml import load, sweep_to_arm, to_arm
from tidemill.cli.yaml.document import YamlError, read_text
from tidemill.domain.sweeps.spec import read_sweep

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = (
    next((p for p in (ROOT / "shared", ROOT.parent / "shared") if p.is_dir()), ROOT)
    / "data"
    / "azureml_examples"
)


def write(folder: Path, text: str, name: str = "job.yml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def problems(folder: Path, text: str, *settings: str) -> list[str]:
    with pytest.raises(YamlError) as caught:
        load.load_job(write(folder, text), settings, "job.yml")
    assert caught.value.exit_code == USAGE
    return [str(problem) for problem in caught.value.problems]


JOB = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
command: python train.py --data ${{inputs.digits}} --lr ${{inputs.lr}} --out ${{outputs.model}}
code: src
environment:
  image: python:3.11
  conda_file: conda.yml
inputs:
  digits:
    type: uri_folder
    path: data
    mode: ro_mount
  lr: 0.1
  folds:
    type: integer
    default: 3
  extra:
    type: uri_file
    optional: true
outputs:
  model:
    type: mlflow_model
    mode: upload
    name: digits
    version: 1.10
  plain:
compute: azureml:cpu-cluster
resources:
  instance_count: 2
distribution:
  type: PyTorch
  process_count_per_instance: 2
tags:
  release: 1.10
  day: 2024-05-01
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "src" / "train.py").write_text("pass")
    (tmp_path / "conda.yml").write_text("dependencies:\n- python=3.11\n")
    return tmp_path


def test_a_whole_job_is_read(folder: Path) -> None:
    job = load.load_job(write(folder, JOB)).data
    assert job["type"] == "command"
    assert job["inputs"]["lr"] == 0.1
    assert job["outputs"]["plain"] is None
    assert job["distribution"] == {"type": "pytorch", "process_count_per_instance": 2}
    # Texts that YAML would read as numbers or dates stay as they were written.
    assert job["tags"] == {"release": "1.10", "day": "2024-05-01"}
    assert job["outputs"]["model"]["version"] == "1.10"
    assert "$schema" not in job


def test_unknown_key_has_line_column_and_the_nearest_word(folder: Path) -> None:
    assert problems(folder, JOB.replace("compute:", "compue:")) == [
        "job.yml:26:1: unknown key 'compue' in a command job. Did you mean 'compute'?"
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = (
        JOB.replace("instance_count: 2", "instance_count: two")
        .replace("mode: ro_mount", "mode: ro_mout")
        .replace("path: data", "path: dta")
        .replace("image:", "imge:")
    )
    found = problems(folder, text)
    assert found == [
        "job.yml:5:3: unknown key 'imge' in an environment. Did you mean 'image'?",
        f"job.yml:10:11: inputs.digits.path: there is no dta in {folder}. Did you mean 'data'?",
        "job.yml:11:11: inputs.digits.mode 'ro_mout' is not one of ro_mount, download, direct, rw_mount, "
        "eval_mount, eval_download, mount. Did you mean 'ro_mount'?",
        "job.yml:28:19: resources.instance_count must be a whole number, not the text 'two'.",
    ]


def test_missing_keys_and_an_empty_file(folder: Path) -> None:
    assert problems(folder, "code: src\n") == [
        "job.yml:1:1: 'command' is required in a command job.",
        "job.yml:1:1: 'environment' is required in a command job.",
    ]
    assert problems(folder, "# nothing\n") == ["job.yml:1:1: the file is empty."]


def test_wrong_shapes(folder: Path) -> None:
    found = problems(folder, "command: 5\nenvironment: [a]\ninputs: x\ntags: {a: {b: c}}\n")
    assert found == [
        'job.yml:1:10: command must be text, not the number 5. Quote it: "5".',
        "job.yml:2:14: environment must be text or a mapping, not a list.",
        "job.yml:3:9: inputs must be a mapping of input names to values, not the text 'x'.",
        "job.yml:4:11: tags.a must be text, not a mapping.",
    ]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("${{inputs.digts}}", "there is no input 'digts'. Did you mean 'digits'?"),
        ("${{ outputs.zzz }}", "there is no output 'zzz'. There are: model, plain."),
        ("${{input.digits}}", "write inputs.NAME or outputs.NAME. Did you mean 'inputs'?"),
        ("${{search_space.lr}}", "'search_space' exists only in sweep jobs."),
        ("${{parent.inputs.x}}", "'parent' exists only in pipeline jobs."),
    ],
)
def test_expressions_are_checked_at_their_own_place(folder: Path, expression: str, message: str) -> None:
    text = JOB.replace("${{inputs.digits}}", expression)
    assert problems(folder, text) == [f"job.yml:2:33: {expression}: {message}"]


def test_the_place_inside_a_folded_text_is_the_line_of_the_expression(folder: Path) -> None:
    text = "environment: azureml:e:1\ncommand: >-\n  echo ü\n  $[[ --x ${{inputs.x}} ]]\n"
    assert problems(folder, text) == ["job.yml:4:11: ${{inputs.x}}: this job has no inputs."]
    unclosed = "environment: azureml:e:1\ncommand: echo ${{inputs.x\n"
    assert problems(folder, unclosed) == [
        "job.yml:2:15: '${{' is not closed: write ${{inputs.NAME}}.",
    ]


@pytest.mark.parametrize("kind", ["spark", "automl", "parallel", "finetuning"])
def test_job_types_that_are_not_offered_are_refused_by_name(folder: Path, kind: str) -> None:
    assert problems(folder, f"type: {kind}\nfoo: 1\n") == [
        f"job.yml:1:7: type: {kind} is not offered yet in a job. Offered: command, sweep, pipeline."
    ]
    assert problems(folder, "type: comand\n") == [
        "job.yml:1:7: type 'comand' of a job is not one of command, sweep, pipeline. Did you mean 'command'?"
    ]


def test_references(folder: Path) -> None:
    base = "command: echo\nenvironment: azureml:e@latest\n"
    for reference in ("azureml:e:1", "azureml:e", "azureml://registries/r/environments/e/labels/latest"):
        load.load_job(write(folder, f"command: echo\nenvironment: {reference}\n"))
    [message] = problems(folder, "command: echo\nenvironment: sklearn-1.5\n")
    assert message.startswith("job.yml:2:14: environment 'sklearn-1.5' is no reference.")
    assert message.endswith("Did you mean 'azureml:sklearn-1.5'?")
    [message] = problems(folder, base + "compute: azureml:a b\n")
    assert message.startswith("job.yml:3:10: compute 'azureml:a b' is no reference.")
    [message] = problems(folder, base + "code: https://example.org/x.git\n")
    assert message.startswith("job.yml:3:7: code from https://example.org/x.git is not offered yet")
    [message] = problems(folder, base + "inputs:\n  d:\n    type: uri_file\n    path: data\n")
    assert message == f"job.yml:6:11: {folder / 'data'} is a folder; type: uri_file needs a file."
    [message] = problems(folder, base + "inputs:\n  d: {type: integer, value: x}\n")
    assert message == "job.yml:4:29: input 'd' is of type integer; 'x' is not."
    [message] = problems(folder, base + "inputs:\n  d: {type: uri_file}\n")
    assert message == "job.yml:4:6: input 'd' has no path: give path, or optional: true."


def test_set_changes_values_with_types_and_the_same_checks(folder: Path) -> None:
    settings = (
        "inputs.lr=0.5",
        "resources.instance_count=3",
        "compute=local",
        "tags.a=b",
        "display_name=x: y",
    )
    job = load.load_job(write(folder, JOB), settings).data
    assert (job["inputs"]["lr"], job["resources"]["instance_count"], job["compute"]) == (0.5, 3, "local")
    assert job["tags"]["a"] == "b"
    assert problems(folder, JOB, "resources.instance_count=x", "inputs.digits.mod=direct", "nonsense") == [
        "--set nonsense: write it as a.b.c=value."
    ]
    assert problems(folder, JOB, "resources.instance_count=x", "inputs.digits.mod=direct") == [
        "--set inputs.digits.mod: unknown key 'mod' in an input. Did you mean 'mode'?",
        "--set resources.instance_count: resources.instance_count must be a whole number, not the text 'x'.",
    ]
    assert problems(folder, JOB, "command.x=1") == [
        "--set command.x: 'command' is the value 'python train.py --data ${{inputs.digits}} --lr "
        "${{inputs.lr}} --out ${{outputs.model}}'; it has nothing called 'x'."
    ]


def test_yaml_that_is_none(folder: Path) -> None:
    [message] = problems(folder, "command: [a\nx: y\n")
    assert message.startswith("job.yml:2:2: this is no YAML:")
    assert problems(folder, "command: a\ncommand: b\nenvironment: azureml:e:1\n") == [
        "job.yml:2:1: the key 'command' stands here twice."
    ]
    [message] = problems(folder, "command: !!python/object:os.system x\n")
    assert message.startswith("job.yml:1:10: could not determine a constructor")
    with pytest.raises(CliError, match=r"There is no file jbo.yml. Did you mean 'job.yml'\?"):
        load.load_job(folder / "jbo.yml", shown="jbo.yml")


def test_anchors_merges_and_bombs() -> None:
    document = read_text("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\n", "f", Path())
    assert document.data["b"] == {"p": 1, "q": 3}
    assert document.data["c"] == {"p": 1, "q": 2}
    assert str(document.place(("b", "q"))) == "f:2:16"
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    with pytest.raises(YamlError, match="unfolds to too many values"):
        read_text(bomb, "f", Path())


def test_compute_files(tmp_path: Path) -> None:
    path = write(tmp_path, "type: amlcompute\nname: c\nmin_instances: 3\nmax_instances: 2\n", "c.yml")
    with pytest.raises(YamlError, match=r"c\.yml:3:16: min_instances 3 is more than max_instances 2\."):
        load.load_compute(path, (), "c.yml")
    path = write(tmp_path, "type: computeinstance\nname: c\n", "c.yml")
    with pytest.raises(
        YamlError, match=r"c\.yml:1:7: type: computeinstance is not offered yet in a compute\."
    ):
        load.load_compute(path, (), "c.yml")
    with pytest.raises(YamlError, match=r"--tier: tier 'cheap' is not one of dedicated, low_priority"):
        load.from_flags("compute", {"type": "amlcompute", "name": "c", "tier": "cheap"})


def test_a_conda_file_is_not_an_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\ndependencies: [python]\n", "conda.yml")
    with pytest.raises(YamlError, match=r"conda\.yml:2:1: this is a conda file"):
        load.load_environment(path, (), "conda.yml")
    path = write(tmp_path, "name: x\nversion: 2\n", "e.yml")
    with pytest.raises(YamlError, match="needs image, conda_file or build"):
        load.load_environment(path, (), "e.yml")


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="Microsoft's examples are not on this machine")
def test_microsofts_examples(tmp_path: Path) -> None:
    world = load.load_job(EXAMPLES / "jobs/basics/hello-world.yml").data
    assert world["environment"] == {"image": "library/python:latest"}
    cluster = load.load_compute(EXAMPLES / "resources/compute/cluster-basic.yml").data
    assert (cluster["type"], cluster["max_instances"]) == ("amlcompute", 2)
    mnist = tmp_path / "job.yml"  # the examples here come without their code folders
    mnist.write_text((EXAMPLES / "jobs/single-step/tensorflow/mnist/job.yml").read_text())
    (tmp_path / "src").mkdir()
    assert load.load_job(mnist).data["compute"] == "azureml:gpu-cluster"
    mnist.write_text((EXAMPLES / "jobs/single-step/lightgbm/iris/job-sweep.yml").read_text())
    sweep = load.load_job(mnist).data
    assert sweep["search_space"]["learning_rate"] == {
        "type": "uniform",
        "min_value": 0.01,
        "max_value": 0.9,
    }
    assert load.load_job(EXAMPLES / "jobs/basics/hello-pipeline.yml").data["type"] == "pipeline"
    with pytest.raises(YamlError, match="computeinstance is not offered yet"):
        load.load_compute(EXAMPLES / "resources/compute/instance-basic.yml")


def test_an_optional_input_without_a_value_belongs_into_an_optional_part(folder: Path) -> None:
    text = JOB.replace("--lr ${{inputs.lr}}", "--x ${{inputs.extra}} $[[--y ${{inputs.extra}}]]")
    assert problems(folder, text) == [
        "job.yml:2:56: ${{inputs.extra}}: input 'extra' is optional and has no value. Give it one, or put "
        "the part in $[[ … ]]."
    ]
    load.load_job(write(folder, text), ("inputs.extra.path=src/train.py",))


def test_an_environment_is_read_from_no_file(folder: Path) -> None:
    text = JOB.replace(
        "environment:\n  image: python:3.11\n  conda_file: conda.yml\n", "environment: file:fe.yml\n"
    )
    (found,) = problems(folder, text)
    assert found.startswith(
        "job.yml:4:14: environment 'file:fe.yml': a file is not read here. Write a mapping"
    )


SWEEP = """\
type: sweep
trial:
  command: echo --lr ${{search_space.lr}} --n ${{inputs.n}}
  environment: azureml:e:1
inputs: {n: 3}
search_space:
  lr: {type: uniform, min_value: 0.1, max_value: 0.9}
  depth: {type: choice, values: [2, 4]}
  model: {type: choice, values: [{kind: a, c: {type: randint, upper: 3}}]}
sampling_algorithm: {type: random, rule: sobol, seed: 7}
objective: {goal: maximize, primary_metric: acc}
limits: {max_total_trials: 8, max_concurrent_trials: 2, timeout: 3600, trial_timeout: 60}
early_termination: {type: bandit, slack_factor: 0.1, evaluation_interval: 2}
compute: azureml:c
outputs: {m: {type: uri_folder}}
"""


def test_a_sweep_becomes_the_body_that_the_sdk_sends(folder: Path) -> None:
    spec = load.load_job(write(folder, SWEEP))
    found = to_arm.JobReferences("ENV", "", "COMPUTE")
    body = sweep_to_arm.sweep_job(spec.data, "s", found, "x")["properties"]
    assert body["jobType"] == "Sweep"
    assert body["trial"] == {
        "command": "echo --lr ${{search_space.lr}} --n ${{inputs.n}}",
        "environmentId": "ENV",
    }
    assert body["searchSpace"] == {
        "lr": ["uniform", [0.1, 0.9]],
        "depth": ["choice", [[2, 4]]],
        "model": ["choice", [[{"kind": "a", "c": ["randint", [3]]}]]],
    }
    assert body["samplingAlgorithm"] == {"samplingAlgorithmType": "Random", "rule": "Sobol", "seed": 7}
    assert body["objective"] == {"goal": "Maximize", "primaryMetric": "acc"}
    assert body["limits"] == {
        "jobLimitsType": "Sweep",
        "maxTotalTrials": 8,
        "maxConcurrentTrials": 2,
        "timeout": "PT1H",
        "trialTimeout": "PT1M",
    }
    assert body["earlyTermination"] == {"policyType": "Bandit", "slackFactor": 0.1, "evaluationInterval": 2}
    assert (body["computeId"], body["inputs"]["n"]["value"]) == ("COMPUTE", "3")
    assert read_sweep("s", body).total == 8


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "search_space.lr}}",
            "search_space.dept}}",
            "there is no search space 'dept'. Did you mean 'depth'?",
        ),
        ("goal: maximize", "goal: max", "is not one of maximize, minimize"),
        ("type: bandit", "type: bandid", "Did you mean 'bandit'?"),
        ("type: random, rule", "type: randm, rule", "Did you mean 'random'?"),
        ("slack_factor", "slack_fator", "Did you mean 'slack_factor'?"),
    ],
)
def test_a_wrong_sweep_is_told_with_its_place(folder: Path, before: str, after: str, message: str) -> None:
    (found,) = problems(folder, SWEEP.replace(before, after))
    assert found.startswith("job.yml:")
    assert message in found


def test_a_job_without_a_type_is_what_its_keys_say(folder: Path) -> None:
    assert load.load_job(write(folder, SWEEP.replace("type: sweep\n", ""))).data["search_space"]
