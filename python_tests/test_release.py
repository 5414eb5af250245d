"""The release workflow and the forms of issues are such as GitHub takes, as far as files can tell.

The workflow itself runs nowhere but there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is absent: forms and workflow are not checked")

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
#: Inputs of the actions in use, as their action.yml has them; those required first.
INPUTS: dict[str, tuple[set[str], set[str]]] = {
    "actions/checkout@v6": (set(), {"ref", "fetch-depth"}),
    "actions/setup-python@v6": (set(), {"python-version", "cache"}),
    "actions/setup-node@v6": (set(), {"node-version", "registry-url", "cache"}),
    "actions/upload-artifact@v6": ({"path"}, {"name", "if-no-files-found", "retention-days"}),
    "actions/download-artifact@v7": (set(), {"name", "path", "pattern", "merge-multiple"}),
    "pypa/cibuildwheel@v3.4.0": (set(), {"package-dir", "output-dir", "config-file", "only"}),
    "pypa/gh-action-pypi-publish@release/v1": (set(), {"packages-dir", "attestations"}),
}
#: Attributes of the elements of a form; "label" is required but of text.
ELEMENTS = {
    "markdown": {"value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "input": {"label", "description", "placeholder", "value"},
    "dropdown": {"label", "description", "multiple", "options", "default"},
    "checkboxes": {"label", "description", "options"},
}


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    return yaml.safe_load((GITHUB / "workflows" / "release.yml").read_text())


def steps_of(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def check_step(step: dict[str, Any]) -> None:
    """A step runs a command or an action, and gives the action inputs that it has."""
    assert ("run" in step) != ("uses" in step), step
    assert set(step) <= {"name", "run", "uses", "with", "env", "working-directory"}, step
    if "uses" in step:
        required, others = INPUTS[step["uses"]]
        given = set(step.get("with", {}))
        assert required <= given <= required | others, step


def test_every_step_has_inputs_that_its_action_has(workflow: dict[Any, Any]) -> None:
    for step in steps_of(workflow):
        check_step(step)
    for wrong in (
        {"uses": "actions/upload-artifact@v6", "with": {"name": "x"}},
        {"uses": "pypa/cibuildwheel@v3.4.0", "with": {"output": "x"}},
        {"uses": "actions/checkout@v6", "run": "x"},
    ):
        with pytest.raises(AssertionError):
            check_step(wrong)


def test_jobs_come_after_what_they_need(workflow: dict[Any, Any]) -> None:
    jobs = workflow["jobs"]
    for job in jobs.values():
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(jobs)
    made = {step["with"]["name"] for step in steps_of(workflow) if "upload" in step.get("uses", "")}
    [wheels] = [name for name in made if "matrix" in name]
    assert wheels.startswith("python-")
    assert made == {wheels, "python-sdist", "npm"}


def test_only_a_tag_is_published_and_without_a_password(workflow: dict[Any, Any]) -> None:
    assert workflow[True]["push"] == {"tags": ["v*"]}  # YAML 1.1 reads the key "on" as true
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions") == ({"id-token": "write"} if "publish" in name else None)
        assert job.get("if") == ("github.event_name == 'push'" if "publish" in name else None)
    assert "secrets" not in (GITHUB / "workflows" / "release.yml").read_text()


def test_wheels_are_built_for_what_the_project_names(workflow: dict[Any, Any]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    named = {
        (system, arch)
        for system in ("linux", "macos", "windows")
        for arch in settings[system]["archs"]
    }
    matrix = workflow["jobs"]["wheels"]["strategy"]["matrix"]["include"]
    assert {(each["system"], each["arch"]) for each in matrix} == named


def test_commands_name_files_that_are_there(workflow: dict[Any, Any]) -> None:
    commands = [step["run"] for step in steps_of(workflow) if "run" in step]
    named = [name for command in commands for name in re.findall(r"\.ci/\S+", command)]
    assert len(named) == 2
    assert all((ROOT / name).is_file() for name in named)
    assert "make web" in commands
    assert re.search(r"(?m)^web:", (ROOT / "Makefile").read_text())


def test_versions_agree() -> None:
    command = [sys.executable, "-P", ROOT / ".ci" / "check_version.py"]
    subprocess.run(command, check=True)
    other = subprocess.run([*command, "v9.9.9"], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "9.9.9" in other.stderr


@pytest.mark.parametrize("name", ["bug", "question", "idea"])
def test_forms_have_what_forms_have(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [element["id"] for element in form["body"] if element["type"] != "markdown"]
    assert len(ids) == len(set(ids)) >= 2
    for element in form["body"]:
        assert set(element) <= {"type", "id", "attributes", "validations"}
        assert set(element["attributes"]) <= ELEMENTS[element["type"]]
        assert ("value" if element["type"] == "markdown" else "label") in element["attributes"]
        assert set(element.get("validations", {})) <= {"required"}
    assert any(element.get("validations") == {"required": True} for element in form["body"])
