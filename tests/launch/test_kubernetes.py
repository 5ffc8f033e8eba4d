"""launch/kubernetes: the manifests against the types of JobSet, Job and Pod, what they do about each way to end, and
the scripts around them.

The types are those that Kubeflow publishes, made from the OpenAPI descriptions of Kubernetes and of JobSet. What these
leave to a cluster's admission is checked as JobSet's reference and source say it
(jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, pkg/webhooks/jobset_webhook.go of kubernetes-sigs/jobset 0.10).
"""

import contextlib
import copy
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet as JobSet

from tests.launch.checkout import install

KUBERNETES = Path(__file__).parents[2] / "launch" / "kubernetes"
ARGUMENTS = ["train", "--config=configs/x.py:a", "--workdir=/runs/x", '--config.data.dir=/a "b" \\c', "--config.n=1"]


def submit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(KUBERNETES / "submit.sh"), *arguments], capture_output=True, text=True)


@pytest.fixture(params=["gpu", "tpu"])
def manifest(request) -> dict[str, Any]:
    done = submit("--dry-run", str(KUBERNETES / f"{request.param}.yaml"), "my-run", *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(manifest) -> dict[str, Any]:
    [replicated] = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(manifest) -> dict[str, Any]:
    return job(manifest)["template"]["spec"]


def container(manifest) -> dict[str, Any]:
    [only] = pod(manifest)["containers"]
    return only


def assert_typed(manifest) -> None:
    """Each field is of its type; none is unknown, since it would be lost, and none that is needed is missing, since it
    would appear."""
    assert JobSet.from_dict(manifest).to_dict() == manifest


def test_manifests_have_the_types_of_kubernetes_and_jobset(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert_typed(manifest)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m["spec"].update(replicatedJob=[]),
        lambda m: m["spec"]["failurePolicy"].update(maxRestarts="4"),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].pop("action"),
        lambda m: job(m)["podFailurePolicy"]["rules"][0]["onExitCodes"].update(value=[2]),
        lambda m: container(m).pop("name"),
        lambda m: container(m)["env"][0].update(valueFrom="HOSTNAME"),
        lambda m: pod(m)["volumes"][0]["persistentVolumeClaim"].update(claim="runs"),
    ],
)
def test_the_types_would_notice_a_mistake(manifest, spoil):
    spoiled = copy.deepcopy(manifest)
    spoil(spoiled)
    with pytest.raises((ValueError, AssertionError)):
        assert_typed(spoiled)


def test_what_admission_asks_beyond_types(manifest):
    spec = manifest["spec"]
    policy = spec["failurePolicy"]
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate", "InPlaceRestart")
    rules = policy["rules"]
    for rule in rules:
        assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert set(rule["onJobFailureReasons"]) <= {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"}
    assert len({rule["name"] for rule in rules}) == len(rules)
    # A Job's podFailurePolicy asks for this restart policy, and for containers that are there.
    assert pod(manifest)["restartPolicy"] == "Never"
    for rule in job(manifest)["podFailurePolicy"]["rules"]:
        assert rule["action"] in ("FailJob", "FailIndex", "Ignore", "Count")
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["operator"] in ("In", "NotIn")
            assert rule["onExitCodes"]["values"] == sorted(set(rule["onExitCodes"]["values"]))
            assert rule["onExitCodes"]["containerName"] == container(manifest)["name"]
    volumes = [volume["name"] for volume in pod(manifest)["volumes"]]
    assert sorted(mount["name"] for mount in container(manifest)["volumeMounts"]) == sorted(volumes)


def test_processes_find_each_other(manifest):
    environment = {entry["name"]: entry for entry in container(manifest)["env"]}
    [replicated] = manifest["spec"]["replicatedJobs"]
    assert job(manifest)["completionMode"] == "Indexed"
    assert job(manifest)["completions"] == job(manifest)["parallelism"]
    if "coordinator" in manifest["spec"]:
        assert manifest["spec"]["coordinator"] == {"replicatedJob": replicated["name"]}
        assert environment["S2SJAX_COORDINATOR"]["value"].startswith("$(COORDINATOR):")
        assert list(environment).index("COORDINATOR") < list(environment).index("S2SJAX_COORDINATOR")
        assert environment["S2SJAX_PROCESSES"]["value"] == str(job(manifest)["completions"])
        endpoint = f"{'n' * 25}-{replicated['name']}-0-0.{'n' * 25}"
        assert len(endpoint) <= 63  # it is a label's value, for the longest name that submit.sh takes
    else:
        assert "google.com/tpu" in container(manifest)["resources"]["limits"]  # where GKE tells it to JAX
        assert environment["S2SJAX_COORDINATOR"]["value"] == "auto"


def outcome(manifest, *, exit_code: int | None = None, disrupted: bool = False) -> str:
    """What becomes of the JobSet when a pod ends so: a Job's controller looks at its rules, and tells JobSet's in words
    (kubernetes, pkg/controller/job/pod_failure_policy.go)."""
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job(manifest)["podFailurePolicy"]["rules"]):
        if exit_code in rule.get("onExitCodes", {}).get("values", ()):
            what = f"Container s2sjax for pod a/b failed with exit code {exit_code}"
        elif disrupted and "onPodConditions" in rule:
            what = "Pod a/b has condition DisruptionTarget"
        else:
            continue
        reason, message = "PodFailurePolicy", f"{what} matching {rule['action']} rule at index {index}"
        break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def test_mistakes_fail_the_jobset_and_what_is_taken_away_starts_again_uncounted(manifest):
    assert job(manifest)["backoffLimit"] == 0  # or pods would start again one by one
    assert outcome(manifest, exit_code=1) == "FailJobSet"
    assert outcome(manifest, exit_code=2) == "FailJobSet"
    assert outcome(manifest, exit_code=75) == "RestartJobSetAndIgnoreMaxRestarts"
    assert outcome(manifest, exit_code=137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    for code in (76, 134, 137, 139, 12, 21):
        assert outcome(manifest, exit_code=code) == "RestartJobSet"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert manifest["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"
    assert pod(manifest)["terminationGracePeriodSeconds"] >= 60


def test_name_and_arguments_arrive_as_they_were_given(manifest):
    assert manifest["metadata"]["name"] == "my-run"
    assert container(manifest)["args"] == ARGUMENTS


def expanded(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of an argument (third_party/forked/golang/expansion/expand.go of kubernetes)."""

    def replace(found: re.Match) -> str:
        if found[1] is not None:
            return variables.get(found[1], found[0])
        return "$" if found[0] == "$$" else found[0]

    return re.sub(r"\$\$|\$\(([^)]*)\)|\$", replace, text, flags=re.DOTALL)


def test_the_stand_in_expands_as_kubernetes_does():
    cases = {
        "$(A)": "a", "$$(A)": "$(A)", "$$$(A)": "$a", "$(B)": "$(B)", "$": "$", "$A": "$A", "$$": "$", "$(A": "$(A",
        "$$A": "$A", "x$(A)y$(A)": "xaya", "$$$$(A)": "$$(A)",
    }  # fmt: skip
    assert {text: expanded(text, {"A": "a"}) for text in cases} == cases


def test_kubernetes_puts_nothing_in_place_of_what_an_argument_says():
    drawn = random.Random(0)
    parts = [
        "$", "$$", "$(A)", "$(", ")", '"', "\\", "'", "\n", "\r\n", "\t", "\x01", "\x7f", "\x85", "\u2028", "\u2029",
        "\ufeff", " ", "  ", "#", ": ", "- ", "{", "]", ",", "%", "*", "&", "a", "\u00e9", "\U0001f600", "[]",
        "\\u0041",
    ]  # fmt: skip
    arguments = ["".join(drawn.choices(parts, k=drawn.randrange(12))) for _ in range(300)]
    done = submit("--dry-run", str(KUBERNETES / "gpu.yaml"), "my-run", *arguments)
    args = container(yaml.safe_load(done.stdout))["args"]
    assert [expanded(argument, {"A": "a"}) for argument in args] == arguments


def test_a_pod_may_do_no_more_than_it_has_to(manifest):
    """What Pod Security Standards call restricted, and more."""
    assert pod(manifest)["automountServiceAccountToken"] is False
    context = pod(manifest)["securityContext"]
    assert context["runAsNonRoot"] is True and context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(manifest))
    mounts = {mount["mountPath"]: mount["name"] for mount in container(manifest)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(manifest)["volumes"]}
    assert set(mounts) == {"/runs", "/tmp", "/dev/shm"}
    for path in ("/tmp", "/dev/shm"):
        assert re.fullmatch("[0-9]+Gi", volumes[mounts[path]]["emptyDir"]["sizeLimit"])
    environment = {entry["name"]: entry.get("value") for entry in container(manifest)["env"]}
    assert environment["S2SJAX_CACHE"].startswith("/runs/")


def test_the_image_is_pinned_and_its_user_is_the_manifests(manifest):
    lines = (KUBERNETES / "Dockerfile").read_text().splitlines()
    [base] = [line for line in lines if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM python:3\.12\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    context = pod(manifest)["securityContext"]
    assert lines[-1] == f"USER {context['runAsUser']}:{context['runAsGroup']}"
    assert context["runAsUser"] > 0 and context["fsGroup"] == context["runAsGroup"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gpu.yaml", "my-run"], "expected a manifest, a name and s2sjax's arguments"),
        (["no.yaml", "my-run", "train"], "there is no manifest"),
        (["gpu.yaml", "My_run", "train"], "the name 'My_run' has to be"),
        (["gpu.yaml", "a" * 26, "train"], "has to be 2 to 25"),
        (["entrypoint.sh", "my-run", "train"], "has to have the lines"),
    ],
)
def test_submit_tells_of_a_mistake(arguments, message):
    done = submit("--dry-run", str(KUBERNETES / arguments[0]), *arguments[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@contextlib.contextmanager
def entrypoint(place: Path, program: str, *arguments: str, **variables: str) -> Iterator[subprocess.Popen]:
    install(place, program)
    process = subprocess.Popen(
        ["bash", str(KUBERNETES / "entrypoint.sh"), *arguments],
        cwd=place, env=os.environ | {"JOB_COMPLETION_INDEX": "3"} | variables, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_entrypoint_writes_everything_twice_and_ends_as_the_program_did(tmp_path):
    program = 'echo "$@"; seq 20000; echo last >&2; exit 76'
    with entrypoint(tmp_path, program, "train", "--workdir", "my run") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 76
    assert out.startswith("train --workdir my run\n1\n2\n") and out.endswith("\n20000\nlast\n")
    assert (tmp_path / "my run" / "logs" / "process-3.log").read_text() == out


def test_the_entrypoint_passes_sigterm_on_and_waits_for_the_end(tmp_path):
    program = "trap 'echo saving; sleep 0.3; echo saved; exit 75' TERM; echo up; while true; do sleep 0.02; done"
    with entrypoint(tmp_path, program, "train", "--workdir=run") as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "saving\nsaved\n"
    assert process.returncode == 75
    assert (tmp_path / "run" / "logs" / "process-3.log").read_text() == "up\nsaving\nsaved\n"


def test_the_entrypoint_passes_on_a_sigterm_that_came_before_the_program(tmp_path):
    slow = tmp_path / "bin" / "dirname"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ntouch begun\nsleep 0.5\nexec /usr/bin/dirname "$@"\n')
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    with entrypoint(tmp_path, "sleep 20", "train", "--workdir=run", PATH=path) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM  # the program's; -15 would be that of the entrypoint itself


def test_the_entrypoint_ends_after_the_last_line_however_often_it_is_told(tmp_path):
    slow = tmp_path / "bin" / "tee"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\n/usr/bin/tee "$@"\necho closing\nsleep 1\necho closed\n')
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    program = "trap 'sleep 0.5; exit 75' TERM; echo up; while true; do sleep 0.02; done"
    with entrypoint(tmp_path, program, "train", "--workdir=run", PATH=path) as process:
        for line in ("up\n", "closing\n"):
            assert process.stdout.readline() == line
            for _ in range(2):
                time.sleep(0.1)
                process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "closed\n"
    assert process.returncode == 75
