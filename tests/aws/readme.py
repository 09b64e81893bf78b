"""Follows the README's deployment word by word into ministack, by the real SAM and AWS
clients; only the endpoint differs, and what cannot be known before: the ARNs.

    python tests/aws/readme.py path/to/bootstrap path/to/sam [--build]

Ends in a night that the schedule starts and that sweeps, what the dashboard shows, and an
alarm that fires. What is not as in AWS:
  - `sam build` takes minutes; without --build the program is laid where it would lay it.
  - SAM's transformation happens in CloudFormation; here, in a server before ministack.
  - No day passes: between deployment and run the grace period is taken away.
  - Midnight does not come: the last deployment says a minute soon.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from between import transforming
from deployed import BUCKET, NAMED, Night
from stage import PATIENCE, ROOT, Stack, clean_environment, ministack, postgres, wait_for

# The longest that `sam build` may take.
BUILD = 3600


def lines_of_readme():
    """The commands of the section, in order."""
    text = (ROOT / "README.md").read_text()
    section = text.split("\n## Every night, in AWS\n")[1].split("\n## ")[0]
    lines = re.findall(r"```sh\n(.*?)\n```", section, re.S)
    return lines[:3]


def clone(folder):
    """What a clone has: what is committed, or is about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def lay_built(folder, bootstrap):
    """What `sam build` makes, without building."""
    build = folder / ".aws-sam" / "build"
    text = (folder / "template.yaml").read_text()
    for function in ("Sweeper", "Restorer"):
        (build / function).mkdir(parents=True)
        shutil.copy(bootstrap, build / function / "bootstrap")
        text = text.replace("      CodeUri: .\n", f"      CodeUri: {function}\n", 1)
    for name in ("LICENSE-MIT", "README.md"):
        text = text.replace(f"Url: {name}\n", f"Url: ../../{name}\n")
    (build / "template.yaml").write_text(text)


class Shell:
    """Somebody who types the README's lines in a clone."""

    def __init__(self, endpoint, folder, bootstrap, sam, build):
        self.folder = folder
        self.environment = clean_environment(AWS_ENDPOINT_URL=endpoint, SAM_CLI_TELEMETRY="0")
        programs = [str(Path(sam).parent), str(Path(sys.executable).parent)]
        if not build:
            # In front of them, a `sam` whose `build` has been done already.
            lay_built(folder, bootstrap)
            shim = folder / "bin" / "sam"
            shim.parent.mkdir()
            shim.write_text(f'#!/bin/sh\n[ "$1" = build ] || exec {sam} "$@"\n')
            shim.chmod(0o755)
            programs.insert(0, str(shim.parent))
        self.environment["PATH"] = ":".join([*programs, self.environment["PATH"]])
        if build:
            for name in ("CARGO_HOME", "RUSTUP_HOME"):
                if name in os.environ:
                    self.environment[name] = os.environ[name]

    def types(self, line):
        """What it prints. A question is answered with yes."""
        patience = BUILD if "sam build" in line else PATIENCE
        ended = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, input="y\n",
            capture_output=True, text=True, timeout=patience,
        )
        assert ended.returncode == 0, f"{line}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
        return ended.stdout


class Followed(Stack):
    """A stack that the README's lines deploy."""

    NAME = "orphan-sweeper"

    def __init__(self, cloud, shell, more, secret, topic):
        self.cloud, self.shell, self.more = cloud, shell, more
        self.cloudformation, self.lambda_ = cloud.client("cloudformation"), cloud.client("lambda")
        self.known = {"arn:aws:secretsmanager:…": secret, "arn:aws:sns:…": topic}

    def types(self, line, more=""):
        for shown, arn in self.known.items():
            line = line.replace(shown, arn)
        assert "…" not in line, line
        printed = self.shell.types(line.replace("sam build", f"sam build {self.more}") + more)
        if "sam deploy" in line:
            (stack,) = self.cloudformation.describe_stacks(StackName=self.NAME)["Stacks"]
            assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), stack
            self.outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
            self.shorten()
        return printed


class Newcomer(Night):
    """Who has a bucket, a database, a secret and a topic, and the README."""

    def __init__(self, cloud, database, shell, more):
        self.shell, self.more = shell, more
        super().__init__(cloud, database, None)

    def deploy(self, _bootstrap):
        return Followed(self.cloud, self.shell, self.more, self.secret, self.topic)


def metrics_of_dashboard(night):
    """What the dashboard's metrics hold, by name."""
    cloudwatch = night.cloud.client("cloudwatch")
    body = json.loads(cloudwatch.get_dashboard(DashboardName=night.stack.NAME)["DashboardBody"])
    now, found = datetime.now(timezone.utc), {}
    for widget in body["widgets"]:
        properties = widget["properties"]
        namespace, _, *dimensions = properties["metrics"][0]
        named = [{"Name": n, "Value": v} for n, v in zip(dimensions[::2], dimensions[1::2])]
        for metric in properties["metrics"]:
            points = cloudwatch.get_metric_statistics(
                Namespace=namespace, MetricName=metric[1], Dimensions=named, Period=properties["period"],
                StartTime=now - timedelta(days=1), EndTime=now + timedelta(hours=1), Statistics=[properties["stat"]],
            )["Datapoints"]
            if points:
                found[metric[1]] = max(point[properties["stat"]] for point in points)
    return found


def follow(night):
    first, look, turn_on = lines_of_readme()
    night.put("images/left.png")
    night.stack.types(first)
    night.sweep_until(1)
    assert night.sweep()["status"] == "dry_run", "the first deployment deletes"
    printed = night.stack.types(look)
    summary, _ = json.JSONDecoder().raw_decode(printed)
    assert (summary["status"], summary["orphans"], summary["deleted"]) == ("dry_run", 1, 0), summary
    assert "images/left.png" in night.keys()
    print("deployed and looked", flush=True)

    # Midnight, in a minute. ministack takes every time for UTC (that the zone reaches the
    # schedule is tests/template/check.py's to see), and looks every ten seconds.
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    night.stack.types(turn_on, f""" 'ScheduleExpression="cron({soon.minute} {soon.hour} * * ? *)"'""")
    (stack,) = night.stack.cloudformation.describe_stacks(StackName=night.stack.NAME)["Stacks"]
    given = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    assert (given["TimeZone"], given["ScheduleState"]) == ("Asia/Seoul", "ENABLED"), given
    wait_for("the night", lambda: night.keys() == NAMED)
    told = wait_for("its end", lambda: [x for x in night.lines() if x.get("deleted") == 1 and "_aws" in x])
    night.metrics_of(told[0]["run_id"])
    shown = metrics_of_dashboard(night)
    for name, value in {"orphans": 1, "deleted": 1, "listed": 3, "referenced": 2, "runs_succeeded": 1}.items():
        assert shown[name] == value, shown
    print(f"a night swept, and the dashboard shows {len(shown)} metrics of it", flush=True)

    night.database.stop()
    try:
        _, failed = night.stack.invoke()
        assert failed
        night.metrics_of([x for x in night.lines() if x.get("runs_failed") == 1][-1]["run_id"])
        wait_for("the alarm", lambda: night.alarm("FailedAlarm") == "ALARM")
        wait_for("its message", lambda: "FailedAlarm" in night.mail())
    finally:
        night.database.start()
    print("a night failed, and the alarm was heard", flush=True)


def main():
    bootstrap, sam = (Path(argument).absolute() for argument in sys.argv[1:3])
    build = "--build" in sys.argv[3:]
    # What is built must run on this machine.
    more = f"--parameter-overrides Architecture={'arm64' if os.uname().machine == 'aarch64' else 'x86_64'}"
    with tempfile.TemporaryDirectory(prefix="sweeper-clone-") as folder, postgres() as database:
        with ministack() as cloud, transforming(cloud) as deployed_to:
            clone(Path(folder))
            shell = Shell(deployed_to.endpoint, Path(folder), bootstrap, sam, build)
            follow(Newcomer(cloud, database, shell, more))


if __name__ == "__main__":
    main()
