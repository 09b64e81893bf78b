"""Deploys the template into ministack, with the function as it is shipped, and follows a
sweep's life: tried, turned on, started by the schedule, failing, killed, told of.

    python tests/aws/deployed.py path/to/bootstrap path/to/orphan-sweeper

What ministack does not do is done here, and said where it is: it makes no metrics of the
lines that the function logs, and its clock cannot be turned.
"""

import json
import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

from between import between
from stage import ACCOUNT, PATIENCE, REGION, Stack, clean_environment, ministack, postgres, wait_for

BUCKET = "pictures"
NAMED = ["images/named-1.png", "images/named-2.png"]


class Night:
    """A deployed function with its bucket, its database and all that it writes."""

    def __init__(self, cloud, database, bootstrap, program=None):
        self.cloud, self.database, self.program = cloud, database, program
        self.s3 = cloud.client("s3")
        self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        for key in NAMED:
            self.put(key)
            database.sql("INSERT INTO images VALUES (%s)", key)
        self.secrets = cloud.client("secretsmanager")
        secret = self.secrets.create_secret(Name="pictures", SecretString=database.secret())
        self.secret = secret["ARN"]
        self.sqs, sns = cloud.client("sqs"), cloud.client("sns")
        self.inbox = self.sqs.create_queue(QueueName="inbox")["QueueUrl"]
        topic = sns.create_topic(Name="alarms")["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:inbox")
        self.topic = topic
        self.stack = self.deploy(bootstrap)

    def deploy(self, bootstrap):
        parameters = {
            "BucketName": BUCKET,
            "Prefix": "images",
            "DatabaseSecretArn": self.secret,
            "AlarmTopicArn": self.topic,
            "AlarmDeletions": "2",
            "MaxOrphanPercent": "90",
            "Architecture": "x86_64",
            "ScheduleState": "DISABLED",
            "ReservedConcurrency": "-1",
        }
        return Stack(self.cloud, bootstrap, parameters)

    def put(self, *keys):
        for key in keys:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())

    def keys(self):
        listed = self.s3.list_objects_v2(Bucket=BUCKET)
        return [found["Key"] for found in listed.get("Contents", [])]

    def ledger(self, summary):
        """The files of a run, by their names in its folder."""
        bucket = self.stack.outputs["LedgerBucketName"]
        place = summary["report"].removeprefix(f"s3://{bucket}/")
        assert place != summary["report"], summary
        listed = self.s3.list_objects_v2(Bucket=bucket, Prefix=place)
        return {
            found["Key"].removeprefix(place): self.s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
            for found in listed.get("Contents", [])
        }

    def lines(self):
        """What the function logged, a dictionary a line."""
        logs = self.cloud.client("logs")
        events = logs.filter_log_events(logGroupName=self.stack.outputs["LogGroupName"])["events"]
        lines = [line for event in events for line in event["message"].splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metrics_of(self, run_id, nudge=lambda: None):
        """The line of a run's metrics, made into metrics as CloudWatch would: ministack
        does not read them. What an environment wrote late it gives out with that
        environment's next invocation, which is a nudge."""

        def told():
            found = [x for x in self.lines() if x.get("run_id") == run_id and "_aws" in x]
            if not found:
                nudge()
            return found

        (line,) = wait_for("the metrics", told)
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        self.cloud.client("cloudwatch").put_metric_data(
            Namespace=directive["Namespace"],
            MetricData=[
                {
                    "MetricName": metric["Name"],
                    "Unit": metric["Unit"],
                    "Value": line[metric["Name"]],
                    "Dimensions": [{"Name": n, "Value": line[n]} for n in directive["Dimensions"][0]],
                }
                for metric in directive["Metrics"]
            ],
        )
        return line

    def alarm(self, name):
        (found,) = [
            alarm
            for alarm in self.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
            if name in alarm["AlarmName"]
        ]
        return found["StateValue"]

    def mail(self):
        """What the topic of the alarms delivered, all of it."""
        found = self.sqs.receive_message(QueueUrl=self.inbox, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self.sqs.delete_message(QueueUrl=self.inbox, ReceiptHandle=message["ReceiptHandle"])
        return "".join(message["Body"] for message in found)

    def dead_letters(self):
        url = self.stack.outputs["DeadLetterQueueUrl"]
        found = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in found]

    def sweep(self, event=None):
        """A run that must not fail, once the objects are older than its first second."""
        summary, failed = self.stack.invoke(event)
        assert failed is None, summary
        assert_sums(summary)
        return summary

    def sweep_until(self, orphans, event=None):
        """S3's times are whole seconds: what was put in this one is not older than now."""
        return wait_for(f"{orphans} orphans", lambda: (s := self.sweep(event))["orphans"] == orphans and s)


def assert_sums(summary):
    assert summary["listed"] == sum(summary[n] for n in ("referenced", "young", "out_of_scope", "orphans")), summary
    assert summary["orphans"] == sum(
        summary[n] for n in ("deleted", "gone", "spared", "failed", "unknown", "deferred")
    ), summary


def shell(night, line):
    """What a line prints that is typed into a shell; only the endpoint differs."""
    environment = clean_environment(AWS_ENDPOINT_URL=night.cloud.endpoint)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ended = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended
    # The answer, and what the client says of it.
    return json.JSONDecoder().raw_decode(ended.stdout)[0]


def by_hand(night):
    """The lines that the stack puts out, typed into a shell: first as a dry run, which the
    first deployment is whatever is asked; then, deployed again, for good."""
    night.put("images/a.png", "images/b.png", "images/c.png", "other/d.png")
    night.sweep_until(3)
    for output in ("InvokeDryRun", "InvokeNow"):
        summary = shell(night, night.stack.outputs[output])
        assert (summary["status"], summary["orphans"], summary["deferred"]) == ("dry_run", 3, 3), summary
        files = night.ledger(summary)
        assert set(files) == {"plan.jsonl", "summary.json"}, files
        assert json.loads(files["summary.json"]) == summary
    assert len(night.keys()) == 6, "a dry run deleted"

    night.stack.update(DryRun="false")
    summary = shell(night, night.stack.outputs["InvokeDryRun"])
    assert (summary["status"], summary["orphans"]) == ("dry_run", 3), summary
    summary = shell(night, night.stack.outputs["InvokeNow"])
    assert (summary["status"], summary["deleted"]) == ("completed", 3), summary
    assert night.keys() == [*NAMED, "other/d.png"]
    files = night.ledger(summary)
    assert set(files) == {"plan.jsonl", "outcomes/000000.json", "summary.json"}, files
    outcomes = json.loads(files["outcomes/000000.json"])["outcomes"]
    assert [(o["key"], o["outcome"], bool(o["marker"])) for o in outcomes] == [
        (f"images/{n}.png", "deleted", True) for n in "abc"
    ]
    told = night.metrics_of(summary["run_id"])
    assert (told["bucket"], told["prefix"], told["deleted"]) == (BUCKET, "images/", 3)
    wait_for("the alarm on deletions", lambda: night.alarm("DeletionsAlarm") == "ALARM")
    wait_for("its message", lambda: "DeletionsAlarm" in night.mail())
    for line in night.lines():
        for name in ("level", "timestamp", "message"):
            # Lambda's own lines have a type.
            assert name in line or "type" in line, line


def undone(night):
    """The second function gives back what a run deleted, by the stack's own line."""
    night.put("images/u.png")
    night.sweep_until(1, {"dry_run": True})
    run_id = night.sweep()["run_id"]
    assert "images/u.png" not in night.keys()
    line = night.stack.outputs["InvokeRestore"].replace("RUN_ID", run_id)
    looked = shell(night, line)
    assert (looked["status"], looked["deferred"]) == ("dry_run", 1), looked
    restored = shell(night, line.replace(',"dry_run":true', ""))
    assert (restored["status"], restored["restored"]) == ("completed", 1), restored
    assert "images/u.png" in night.keys()
    assert night.sweep()["deleted"] == 1


def by_the_schedule(night):
    """A minute ahead, as another deployment would set it. ministack takes every time for
    UTC; that the time zone reaches the schedule is tests/template/check.py's to see."""
    night.put("images/night.png")
    night.sweep_until(1, {"dry_run": True})
    night_comes(night, lambda: "images/night.png" not in night.keys())


def night_comes(night, is_swept):
    # It looks every ten seconds, and first only to remember when it looked.
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    cron = f"cron({soon.minute} {soon.hour} * * ? *)"
    night.stack.update(ScheduleExpression=cron, ScheduleState="ENABLED")
    wait_for("the schedule", is_swept)
    # Else it fires again tomorrow only, but a test is to leave nothing under way.
    night.stack.update(ScheduleState="DISABLED")


def two_at_once(night):
    """The first waits for a migration; the second says so and leaves the work to it."""
    night.put("images/e.png")
    night.sweep_until(1, {"dry_run": True})
    first = []
    with night.database.connect() as migration, migration.transaction():
        migration.execute("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        runs = threading.Thread(target=lambda: first.append(night.stack.invoke()))
        runs.start()
        wait_for("the first run", lambda: waiting(night) == 1)
        second = night.sweep()
        assert second["status"] == "refused", second
        assert second["refusal"]["guard"] == "another_run", second
        assert night.metrics_of(second["run_id"])["runs_held_apart"] == 1
        assert night.alarm("RefusedAlarm") != "ALARM", "a second run woke somebody"
    runs.join(PATIENCE)
    ((summary, failed),) = first
    assert failed is None and summary["deleted"] == 1, summary


def waiting(night):
    with night.database.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sweeper' AND wait_event_type = 'Lock'"
        return connection.execute(query).fetchone()[0]


def rotated(night):
    """The password is another one between two runs of a function that stays warm."""
    night.database.sql("ALTER ROLE sweeper PASSWORD 'second'")
    night.secrets.put_secret_value(SecretId=night.secret, SecretString=night.database.secret("second"))
    night.put("images/f.png")
    assert night.sweep_until(1, {"dry_run": True})["status"] == "dry_run"
    assert night.sweep()["deleted"] == 1


def failing(night):
    """A database that does not answer: a named error, the metric of the alarm, its message
    and a dead letter; and nothing is deleted."""
    night.put("images/g.png")
    night.sweep_until(1, {"dry_run": True})
    before = night.keys()
    night.database.stop()
    try:
        error, failed = night.stack.invoke()
        assert failed and error["errorType"] == "Database", error
        assert "connect" in error["errorMessage"] and "(run " in error["errorMessage"], error
        night.stack.lambda_.invoke(FunctionName=night.stack.function, InvocationType="Event", Payload=b'{"max_delete": 7}')
        (letter,) = wait_for("a dead letter", night.dead_letters)
        assert letter["requestPayload"] == {"max_delete": 7}, letter
        assert letter["responsePayload"]["errorType"] == "Database", letter
        run_id = error["errorMessage"].split("(run ")[1].split(",")[0]
        told = night.metrics_of(run_id)
        assert told["runs_failed"] == 1, told
        assert "orphans" not in told, "a run that saw nothing told what there is"
        # Lambda's own metric; ministack looks at alarms when it is sent metrics only.
        wait_for("the alarm", lambda: night.alarm("FailedAlarm") == "ALARM")
        wait_for("its message", lambda: "FailedAlarm" in night.mail())
    finally:
        night.database.start()
    assert night.keys() == before
    assert night.sweep()["deleted"] == 1


def refused(night):
    """A guard's no is an answer, and an alarm."""
    night.database.sql("DELETE FROM images")
    try:
        summary = night.sweep()
    finally:
        for key in NAMED:
            night.database.sql("INSERT INTO images VALUES (%s)", key)
    assert (summary["status"], summary["deleted"]) == ("refused", 0), summary
    assert night.metrics_of(summary["run_id"])["runs_refused"] == 1
    wait_for("the alarm", lambda: night.alarm("RefusedAlarm") == "ALARM")
    assert set(NAMED) <= set(night.keys())


def killed(night):
    """The process ends in the middle of a run. What it held is free when its time is over,
    and the next run completes the work."""
    night.put("images/h.png", "images/i.png")
    night.sweep_until(2, {"dry_run": True})
    with night.database.connect() as migration, migration.transaction():
        migration.execute("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        answers = []
        runs = threading.Thread(target=lambda: answers.append(night.stack.invoke()))
        runs.start()
        wait_for("the run", lambda: waiting(night) == 1)
        for process in children(night.cloud.process.pid):
            os.kill(process, 9)
        runs.join(PATIENCE)
    ((error, failed),) = answers
    assert failed, error
    summary = night.sweep()
    assert summary["refusal"]["guard"] == "another_run", summary
    ten_minutes_pass(night)
    assert night.sweep()["deleted"] == 2
    assert night.keys() == [*NAMED, "other/d.png"]


def ten_minutes_pass(night):
    """What a dead run's lock says is over."""
    bucket = night.stack.outputs["LedgerBucketName"]
    (lock,) = night.s3.list_objects_v2(Bucket=bucket, Prefix="ledger/locks/")["Contents"]
    note = json.loads(night.s3.get_object(Bucket=bucket, Key=lock["Key"])["Body"].read())
    assert not note["released"], note
    note["expires"] = "2026-01-01T00:00:00Z"
    night.s3.put_object(Bucket=bucket, Key=lock["Key"], Body=json.dumps(note))


def killed_anywhere(night):
    """The process ends at each of its requests in turn, when S3 has done what it was asked and
    nobody has heard of it; each time the next night completes the work."""
    orphans = ["images/j.png", "images/k.png"]
    point, reached = 0, True
    while reached:
        point += 1
        night.put(*orphans)
        night.sweep_until(2, {"dry_run": True})
        asked = []

        def after(command, path, _):
            asked.append(f"{command} {path.partition('?')[2].partition('&')[0]}")
            if len(asked) == point:
                for process in children(night.cloud.process.pid):
                    os.kill(process, 9)
            return len(asked) < point

        with between(night.cloud, after=after) as watched:
            night.stack.shorten(AWS_ENDPOINT_URL_S3=watched.endpoint)
            answer, failed = night.stack.invoke()
        night.stack.shorten(AWS_ENDPOINT_URL_S3=night.cloud.endpoint)
        reached = len(asked) >= point
        if not reached:
            assert failed is None and answer["deleted"] == 2, answer
            break
        assert failed, f"it outlived its end at request {point}: {answer}"
        left = len(set(orphans) & set(night.keys()))
        summary = night.sweep()
        if summary["refusal"]:
            assert summary["refusal"]["guard"] == "another_run", summary
            ten_minutes_pass(night)
            summary = night.sweep()
        assert (summary["status"], summary["deleted"]) == ("completed", left), (point, summary)
        assert night.keys() == [*NAMED, "other/d.png"], (point, summary)
    assert point > 8, f"a run of {point - 1} requests deletes nothing: {asked}"
    print(f"killed at each of {point - 1} requests", flush=True)


def named_again(night):
    """A row names an image between the fresh check and its deletion: the sweep, whose role may
    remove no version, invokes the function whose role may."""
    night.put("images/l.png", "images/m.png")
    night.sweep_until(2, {"dry_run": True})

    def before(command, path, body):
        if command == "POST" and "delete" in path and b"images/l.png" in body:
            night.database.sql("INSERT INTO images VALUES ('images/l.png')")
        return body

    try:
        with between(night.cloud, before=before) as meddled:
            night.stack.shorten(AWS_ENDPOINT_URL_S3=meddled.endpoint)
            summary = night.sweep()
    finally:
        night.database.sql("DELETE FROM images WHERE name = 'images/l.png'")
        night.stack.shorten(AWS_ENDPOINT_URL_S3=night.cloud.endpoint)
    assert (summary["status"], summary["deleted"]) == ("incomplete", 2), summary
    assert summary["rechecked"] == {"referenced": 1, "restored": 1}, summary
    assert "images/l.png" in night.keys() and "images/m.png" not in night.keys()
    assert any(name.startswith("restored/") for name in night.ledger(summary)), "the function did not do it"
    told = night.metrics_of(summary["run_id"])
    assert (told["referenced_after_deletion"], told["restored"]) == (1, 1), told
    wait_for("the alarm", lambda: night.alarm("NamedAgainAlarm") == "ALARM")
    wait_for("its message", lambda: "NamedAgainAlarm" in night.mail())
    assert night.sweep()["deleted"] == 1


def executed(night, start):
    """How the state machine ended that this started."""
    sfn = night.cloud.client("stepfunctions")
    arn = start()["executionArn"]
    ended = wait_for("the execution", lambda: (e := sfn.describe_execution(executionArn=arn))["status"] != "RUNNING" and e)
    return ended["status"], ended


def distributed(night):
    """The ranges that the command line cut, each swept by an invocation of its own: by the
    stack's line, without a database, and by the schedule."""
    many = [f"images/x/{n:03}.png" for n in range(300)]
    for key in many:
        night.put(key)
        night.database.sql("INSERT INTO images VALUES (%s)", key)
    orphans = ["images/n.png", "images/o.png", "images/x/150-left.png", "images/y.png"]
    night.put(*orphans)
    night.sweep_until(4, {"dry_run": True})
    # The grace period is none here, so that each run's transaction is an old one to the other.
    night.stack.update(RangesAtOnce="2", AllowOldTransactions="true")
    outputs = night.stack.outputs
    sfn = night.cloud.client("stepfunctions")

    def by_hand(event=None):
        return sfn.start_execution(stateMachineArn=outputs["StateMachineArn"], input=json.dumps(event or {}))

    status, ended = executed(night, by_hand)
    assert (status, ended["error"]) == ("FAILED", "States.ItemReaderFailed"), ended

    cut = subprocess.run(
        [night.program, "ranges", "--parts", "2", "--bucket", BUCKET, "--prefix", "images"],
        env=clean_environment(DATABASE_URL=f"postgres://postgres:postgres@127.0.0.1:{night.database.port}/app"),
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    ).stdout
    ranges = json.loads(cut)
    assert len(ranges) == 2, ranges
    bucket, _, key = outputs["RangesLocation"].removeprefix("s3://").partition("/")
    night.s3.put_object(Bucket=bucket, Key=key, Body=cut)

    status, ended = executed(night, lambda: shell(night, outputs["StartDistributed"]))
    assert status == "SUCCEEDED", ended
    runs = json.loads(ended["output"])["runs"]
    assert [(run["status"], run["deleted"]) for run in runs] == [("dry_run", 0)] * 2, runs
    assert sum(run["orphans"] for run in runs) == 4 and all(run["listed"] for run in runs), runs
    assert set(orphans) <= set(night.keys()), "a dry run deleted"

    # No range is swept by halves: without a database each says so, and so does the whole.
    night.database.stop()
    try:
        status, ended = executed(night, by_hand)
    finally:
        night.database.start()
    assert (status, ended["error"]) == ("FAILED", "SomeRangeFailed"), ended
    history = sfn.get_execution_history(executionArn=ended["executionArn"])["events"]
    assert "Database" in json.dumps(history, default=str), history
    assert set(orphans) <= set(night.keys())

    status, ended = executed(night, lambda: by_hand({"max_delete": 3}))
    assert status == "SUCCEEDED", ended
    runs = json.loads(ended["output"])["runs"]
    assert sorted(run["status"] for run in runs) == ["completed"] * 2, runs
    assert sum(run["deleted"] for run in runs) == 4, runs
    assert not set(orphans) & set(night.keys()) and set(many) <= set(night.keys())
    for run in runs:
        told = night.metrics_of(run["run_id"], lambda: executed(night, lambda: by_hand({"dry_run": True})))
        assert (told["prefix"], told["deleted"]) == ("images/", run["deleted"]), told

    night.put(*orphans)
    night.sweep_until(4, {"dry_run": True})
    night_comes(night, lambda: not set(orphans) & set(night.keys()))
    night.stack.update(RangesAtOnce="0", AllowOldTransactions="false")
    for key in many:
        night.database.sql("DELETE FROM images WHERE name = %s", key)
        night.s3.delete_object(Bucket=BUCKET, Key=key)


def children(parent):
    """The functions' processes: those that this server started, by their parent."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text()
            program = os.readlink(process / "exe")
        except OSError:
            continue
        if int(status.rsplit(")", 1)[1].split()[1]) == parent and program.endswith("/bootstrap"):
            found.append(int(process.name))
    assert found, "no function runs"
    return found


def main():
    bootstrap, program = (Path(argument).resolve() for argument in sys.argv[1:3])
    acts = (by_hand, undone, two_at_once, rotated, failing, refused, killed, killed_anywhere, named_again, by_the_schedule, distributed)
    # Some of them only, by name: the first one turns the function on.
    wanted = [act for act in acts if not sys.argv[3:] or act.__name__ in ("by_hand", *sys.argv[3:])]
    with postgres() as database, ministack() as cloud:
        night = Night(cloud, database, bootstrap, program)
        for act in wanted:
            act(night)
            print(f"{act.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
