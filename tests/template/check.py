"""Checks what linters cannot know of template.yaml.

Translates the template as CloudFormation would, works out its functions for
several sets of parameters, and asserts what matters. Without an argument it
then breaks the template in every way listed at the end and expects each break
to be noticed. With one, it checks that file only.
"""

import json
import logging
import os
import re
import sys
import tomllib
from pathlib import Path

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

logging.disable(logging.WARNING)  # the translator's, about metrics of its own

ROOT = Path(__file__).resolve().parents[2]

# The contract: the environment that the function reads.
CONTRACT = {
    "SWEEPER_BUCKET",
    "SWEEPER_PREFIX",
    "SWEEPER_INCLUDE",
    "SWEEPER_EXCLUDE",
    "SWEEPER_REFERENCES",
    "SWEEPER_REFERENCE_FORM",
    "SWEEPER_REFERENCE_HOST",
    "SWEEPER_FOREIGN_HOST",
    "SWEEPER_REFERENCE_PREFIX",
    "DATABASE_URL",
    "DATABASE_SECRET_ARN",
    "SWEEPER_DATABASE_IAM",
    "SWEEPER_DATABASE_CA",
    "SWEEPER_MIN_AGE",
    "SWEEPER_MAX_DELETE",
    "SWEEPER_MAX_ORPHAN_PERCENT",
    "SWEEPER_MAX_DANGLING_PERCENT",
    "SWEEPER_DRY_RUN",
    "SWEEPER_REPORT",
    "SWEEPER_ALLOW_NEWER_ORPHANS",
    "SWEEPER_ALLOW_UNREFERENCED_FOLDER",
    "SWEEPER_MAX_REFERENCED_DROP_PERCENT",
    "SWEEPER_ALLOW_OLD_TRANSACTIONS",
    "SWEEPER_MAX_REPLICA_LAG",
    "SWEEPER_NOT_A_REFERENCE",
    "SWEEPER_ALLOW_REPLICA",
    "SWEEPER_ALLOW_UNVERSIONED",
    "SWEEPER_ALLOW_UNCONDITIONAL",
    "SWEEPER_ABORT_UPLOADS",
    "SWEEPER_CONCURRENCY",
    "SWEEPER_UNDO_FUNCTION",
}

# All that a sweep may ask of AWS.
SWEEP_ACTIONS = {
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:GetBucketVersioning",
    "s3:GetLifecycleConfiguration",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
    "s3:GetObject",
    "s3:DeleteObject",
    "s3:PutObject",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:SendMessage",
    "lambda:InvokeFunction",
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
}

# What these parameters add to it.
MORE_ACTIONS = [
    ({"DatabaseSecretArn": "arn:aws:secretsmanager:x"}, {"secretsmanager:GetSecretValue"}),
    ({"DatabaseSecretKeyArn": "arn:aws:kms:x"}, {"kms:Decrypt"}),
    (
        {"DatabaseIam": "true", "DatabaseResourceId": "db-1", "DatabaseUser": "sweeper"},
        {"rds-db:connect"},
    ),
    (
        {"VpcId": "vpc-1"},
        {
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        },
    ),
]

# Actions that AWS lets nobody restrict to a resource, or none that exists yet.
ANY_RESOURCE = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"} | MORE_ACTIONS[3][1]

# What nobody may allow the sweep, whatever else is attached to its role.
DENIED = {
    "s3:DeleteObjectVersion",
    "s3:PutBucketVersioning",
    "s3:PutLifecycleConfiguration",
    "s3:DeleteBucket",
}

NOTHING = object()


class Stack:
    """A translated template with its functions worked out."""

    def __init__(self, template, **parameters):
        self.template = template
        self.values = {
            "AWS::AccountId": "123456789012",
            "AWS::NoValue": NOTHING,
            "AWS::Partition": "aws",
            "AWS::Region": "us-east-1",
            "AWS::StackName": "stack",
            "AWS::URLSuffix": "amazonaws.com",
        }
        for name, parameter in template["Parameters"].items():
            if name in parameters:
                self.values[name] = parameters.pop(name)
            elif "Default" in parameter:
                self.values[name] = parameter["Default"]
            else:
                self.values[name] = f"<{name}>"
        assert not parameters, f"no such parameters: {sorted(parameters)}"
        self.resources = {
            name: self.resolve(resource)
            for name, resource in template["Resources"].items()
        }
        self.outputs = self.resolve(template["Outputs"])

    def ref(self, name):
        if name in self.values:
            return self.values[name]
        assert name in self.template["Resources"], f"{name} is neither parameter nor resource"
        return f"<{name}>"

    def attribute(self, name):
        resource = name.split(".")[0]
        assert resource in self.template["Resources"], f"{name}: no such resource"
        return f"<{name}>"

    def condition(self, name):
        assert name in self.template["Conditions"], f"no such condition: {name}"
        return self.resolve(self.template["Conditions"][name])

    def resolve(self, value):
        if isinstance(value, list):
            return [v for v in map(self.resolve, value) if v is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), = value.items()
            if name == "Ref":
                return self.ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if name.startswith("Fn::"):
                return self.function(name[4:], argument)
        resolved = {k: self.resolve(v) for k, v in value.items()}
        return {k: v for k, v in resolved.items() if v is not NOTHING}

    def function(self, name, argument):
        if name == "If":
            return self.resolve(argument[1] if self.condition(argument[0]) else argument[2])
        if name == "GetAtt":
            return self.attribute(argument if isinstance(argument, str) else ".".join(argument))
        if name == "Sub":
            text, own = argument if isinstance(argument, list) else (argument, {})
            own = self.resolve(own)

            def put(match):
                key = match[1]
                if key in own:
                    return str(own[key])
                return str(self.attribute(key) if "." in key else self.ref(key))

            return re.sub(r"\$\{([^!}][^}]*)\}", put, text)
        argument = self.resolve(argument)
        if name == "Equals":
            return str(argument[0]) == str(argument[1])
        if name == "Not":
            return not argument[0]
        if name == "Or":
            return any(argument)
        if name == "And":
            return all(argument)
        if name == "Join":
            return argument[0].join(argument[1])
        if name == "Split":
            return argument[1].split(argument[0])
        if name == "Select":
            return argument[1][int(argument[0])]
        raise AssertionError(f"the check does not know Fn::{name}")

    def of_type(self, kind):
        """Those that would be made."""
        return {
            n: r["Properties"]
            for n, r in self.resources.items()
            if r["Type"] == kind and self.condition_holds(n)
        }

    def only(self, kind):
        found = self.of_type(kind)
        assert len(found) == 1, f"{len(found)} of {kind}"
        return next(iter(found.values()))

    def condition_holds(self, resource):
        name = self.template["Resources"][resource].get("Condition")
        return name is None or self.condition(name)

    def statements(self, role, effect="Allow"):
        properties = self.resources[role]["Properties"]
        assert not properties.get("ManagedPolicyArns"), f"{role} has managed policies"
        return [
            (
                as_list(statement["Action"]),
                as_list(statement["Resource"]),
                statement.get("Condition", {}),
            )
            for policy in properties["Policies"]
            for statement in policy["PolicyDocument"]["Statement"]
            if statement["Effect"] == effect
        ]


def as_list(value):
    return value if isinstance(value, list) else [value]


def translate(text):
    template = yaml_parse(text)
    for resource in template["Resources"].values():
        if "CodeUri" in resource.get("Properties", {}):
            resource["Properties"]["CodeUri"] = "s3://code/bootstrap.zip"

    class NoManagedPolicies:
        def load(self):
            return {}

    return transform(template, {}, NoManagedPolicies())


def check_function(stack):
    function = stack.resources["Sweeper"]["Properties"]
    environment = function["Environment"]["Variables"]
    unknown = set(environment) - CONTRACT
    assert not unknown, f"not in the contract: {sorted(unknown)}"
    assert set(environment) == CONTRACT, f"not set: {sorted(CONTRACT - set(environment))}"
    assert environment["SWEEPER_DRY_RUN"] == "true", "the first deployment must be a dry run"
    for allowed in ("NEWER_ORPHANS", "OLD_TRANSACTIONS", "REPLICA", "UNVERSIONED", "UNCONDITIONAL"):
        assert environment[f"SWEEPER_ALLOW_{allowed}"] == "false", allowed
    assert environment["SWEEPER_ABORT_UPLOADS"] == "false"
    for none in ("SWEEPER_ALLOW_UNREFERENCED_FOLDER", "SWEEPER_NOT_A_REFERENCE"):
        assert environment[none] == "", none
    assert environment["SWEEPER_MIN_AGE"] == "24h"
    assert environment["SWEEPER_REFERENCES"] == "SELECT name FROM images"
    assert environment["SWEEPER_REPORT"] == "s3://<LedgerBucket>/ledger"
    assert environment["SWEEPER_UNDO_FUNCTION"] == "<Restorer.Arn>"
    assert function["Runtime"] == "provided.al2023"
    assert function["Handler"] == "bootstrap"
    assert function["Architectures"] == ["arm64"]
    assert function["Timeout"] == 900
    assert str(function["ReservedConcurrentExecutions"]) == "1"
    assert function["LoggingConfig"] == {"LogGroup": "<SweeperLogs>", "LogFormat": "JSON"}
    asynchronous = stack.only("AWS::Lambda::EventInvokeConfig")
    assert asynchronous["MaximumRetryAttempts"] == 0, "Lambda would run a failed sweep again"
    assert asynchronous["MaximumEventAgeInSeconds"] <= 6 * 3600


def check_schedule(stack):
    schedule = stack.only("AWS::Scheduler::Schedule")
    assert schedule["ScheduleExpression"] == "cron(0 0 * * ? *)"
    assert schedule["ScheduleExpressionTimezone"] == "UTC"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["State"] == "ENABLED"
    assert "Name" not in schedule, "two stacks would fight over one schedule"
    target = schedule["Target"]
    assert target["RetryPolicy"]["MaximumRetryAttempts"] == 0, "the schedule would run a sweep again"
    assert target["Input"] == "{}", "without an input Scheduler sends an envelope"
    assert target["RoleArn"] == "<ScheduleRole.Arn>"


def check_roles(stack):
    for name in stack.of_type("AWS::IAM::Role"):
        for actions, resources, _ in stack.statements(name):
            for resource in resources:
                wide = set() if resource != "*" else set(actions) - ANY_RESOURCE
                assert not wide, f"{name}: {sorted(wide)} on everything"
            for action in actions:
                assert "*" not in action, f"{name}: {action}"


def check_permissions(stack):
    check_roles(stack)
    for actions, _, condition in stack.statements("SweeperRole"):
        assert set(actions) <= SWEEP_ACTIONS, f"{sorted(set(actions) - SWEEP_ACTIONS)}"
        if any(action.startswith("s3:") for action in actions):
            account = condition.get("StringEquals", {}).get("aws:ResourceAccount")
            assert account == "123456789012", f"{actions} in any account"
    granted = {a for actions, _, _ in stack.statements("SweeperRole") for a in actions}
    assert granted == SWEEP_ACTIONS, f"not granted: {sorted(SWEEP_ACTIONS - granted)}"
    schedule = [(actions, resources) for actions, resources, _ in stack.statements("ScheduleRole")]
    assert schedule == [
        (["lambda:InvokeFunction"], ["<Sweeper.Arn>"]),
        (["sqs:SendMessage"], ["<DeadLetters.Arn>"]),
    ]
    denied = stack.statements("SweeperRole", "Deny")
    assert (
        ["s3:DeleteObject"],
        ["arn:aws:s3:::<BucketName>/*"],
        {"Null": {"s3:if-match": "true"}},
    ) in denied, "an unconditional deletion is not denied"
    bucket = ["arn:aws:s3:::<BucketName>", "arn:aws:s3:::<BucketName>/*"]
    always = [set(a) for a, resources, condition in denied if resources == bucket and not condition]
    assert always == [DENIED], f"not denied: {always}"


def check_options(template):
    """What each way of reaching the database adds to the permissions, and where."""
    for parameters, more in MORE_ACTIONS:
        stack = Stack(template, **parameters)
        granted = {a for actions, _, _ in stack.statements("SweeperRole") for a in actions}
        assert granted == SWEEP_ACTIONS | more, f"{parameters}: {sorted(granted ^ (SWEEP_ACTIONS | more))}"
        for actions, resources, condition in stack.statements("SweeperRole"):
            if "secretsmanager:GetSecretValue" in actions:
                assert resources == ["arn:aws:secretsmanager:x"]
            if "rds-db:connect" in actions:
                assert resources == ["arn:aws:rds-db:us-east-1:123456789012:dbuser:db-1/sweeper"]
            if "kms:Decrypt" in actions:
                assert resources == ["arn:aws:kms:x"]
                assert condition == {
                    "StringEquals": {"kms:ViaService": "secretsmanager.us-east-1.amazonaws.com"}
                }
    outside, inside = Stack(template), Stack(template, VpcId="vpc-1", SubnetIds=["subnet-1"])
    assert "VpcConfig" not in outside.resources["Sweeper"]["Properties"]
    assert inside.resources["Sweeper"]["Properties"]["VpcConfig"] == {
        "SubnetIds": ["subnet-1"],
        "SecurityGroupIds": ["<SweeperSecurityGroup>"],
    }
    network = ["SweeperSecurityGroup", "DatabaseIngress", "S3Endpoint", "SecretsEndpointGroup", "SecretsManagerEndpoint", "LambdaEndpointGroup", "LambdaApiEndpoint"]
    assert not any(map(outside.condition_holds, network))
    assert [n for n in network if inside.condition_holds(n)] == network[:1]
    whole = Stack(
        template,
        VpcId="vpc-1",
        SubnetIds=["subnet-1"],
        DatabaseSecurityGroupId="sg-1",
        S3EndpointRouteTableIds=["rtb-1"],
        SecretsEndpoint="true",
        LambdaEndpoint="true",
    )
    assert all(map(whole.condition_holds, network))
    assert "Layers" not in outside.resources["Sweeper"]["Properties"]
    assert outside.resources["Sweeper"]["Properties"]["Environment"]["Variables"]["SWEEPER_DATABASE_CA"] == ""
    layered = Stack(template, DatabaseCaLayerArn="arn:aws:lambda:x").resources["Sweeper"]["Properties"]
    assert layered["Layers"] == ["arn:aws:lambda:x"]
    assert layered["Environment"]["Variables"]["SWEEPER_DATABASE_CA"] == "/opt/ca.pem"


def check_rules(template):
    """The rules let through what can work, and nothing else."""
    secret, url = {"DatabaseSecretArn": "arn:x"}, {"DatabaseUrl": "postgres://u@h/d"}
    iam = {"DatabaseIam": "true", "DatabaseResourceId": "db-1", "DatabaseUser": "u"}
    for good, parameters in [
        (False, {}),
        (True, secret),
        (True, url),
        (False, secret | url),
        (True, url | iam),
        (False, secret | iam),
        (False, url | iam | {"DatabaseUser": ""}),
        (False, url | iam | {"DatabaseResourceId": ""}),
        (False, url | {"DatabaseSecurityGroupId": "sg-1"}),
        (False, secret | {"SecretsEndpoint": "true"}),
        (False, secret | {"LambdaEndpoint": "true"}),
        (True, secret | {"LambdaEndpoint": "true", "VpcId": "vpc-1"}),
        (True, secret | {"SecretsEndpoint": "true", "VpcId": "vpc-1"}),
    ]:
        stack = Stack(template, **parameters)
        held = all(
            stack.resolve(assertion["Assert"])
            for rule in template["Rules"].values()
            if stack.resolve(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
        )
        assert held == good, f"{parameters}: {held}"


def check_alarms(template):
    topic = "arn:aws:sns:us-east-1:123456789012:topic"
    source = (ROOT / "src" / "metrics.rs").read_text()
    told = set(re.findall(r'"([a-z_]+)",\s*"(?:Count|Bytes|Milliseconds)"', source))
    for prefix, dimension in [("", "*"), ("images", "images/"), ("a/", "a/")]:
        stack = Stack(template, BucketName="pictures", Prefix=prefix, AlarmTopicArn=topic)
        alarms = stack.of_type("AWS::CloudWatch::Alarm")
        assert set(alarms) == {
            "FailedAlarm",
            "RefusedAlarm",
            "SilenceAlarm",
            "DeletionsAlarm",
            "NamedAgainAlarm",
            "DeadLettersAlarm",
        }
        for name, alarm in alarms.items():
            assert alarm["AlarmActions"] == [topic], name
            silent = name == "SilenceAlarm"
            assert alarm["TreatMissingData"] == ("breaching" if silent else "notBreaching"), name
            assert alarm["Period"] * alarm["EvaluationPeriods"] <= 604_800
            if alarm["Namespace"] == "OrphanSweeper":
                assert alarm["Dimensions"] == [
                    {"Name": "bucket", "Value": "pictures"},
                    {"Name": "prefix", "Value": dimension},
                ], name
                assert alarm["MetricName"] in told, name
        silence = alarms["SilenceAlarm"]
        assert silence["Period"] * silence["EvaluationPeriods"] == 26 * 3600
        assert silence["Statistic"] == "Sum" and silence["Threshold"] == 1
        assert silence["ComparisonOperator"] == "LessThanThreshold"
        body = json.loads(stack.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
        for widget in body["widgets"]:
            metrics = widget["properties"]["metrics"]
            assert metrics[0][2:] == ["bucket", "pictures", "prefix", dimension], metrics
            assert {metric[1] for metric in metrics} <= told, metrics
    quiet = Stack(template, AlarmSilenceHours=0, Dashboard="false")
    assert not quiet.condition_holds("SilenceAlarm") and not quiet.condition_holds("Nights")
    assert all("AlarmActions" not in a for a in quiet.of_type("AWS::CloudWatch::Alarm").values())


def check_undo(template):
    """The second function has its own role, which alone may delete a version."""
    for prefix, folder in [("", ""), ("images", "images/")]:
        stack = Stack(template, BucketName="pictures", Prefix=prefix)
        function = stack.resources["Restorer"]["Properties"]
        assert function["Handler"] == "restore" and function["Role"] == "<RestorerRole.Arn>"
        assert set(function["Environment"]["Variables"]) == {"SWEEPER_BUCKET", "SWEEPER_REPORT", "SWEEPER_CONCURRENCY"}
        report = stack.resources["Sweeper"]["Properties"]["Environment"]["Variables"]["SWEEPER_REPORT"]
        assert function["Environment"]["Variables"]["SWEEPER_REPORT"] == report
        granted = {}
        for actions, resources, condition in stack.statements("RestorerRole"):
            for action in actions:
                granted[(action, *resources)] = condition
        assert set(granted) == {
            ("s3:ListBucketVersions", "arn:aws:s3:::pictures"),
            ("s3:GetBucketVersioning", "arn:aws:s3:::pictures"),
            ("s3:DeleteObjectVersion", f"arn:aws:s3:::pictures/{folder}*"),
            ("s3:PutObject", "<LedgerBucket.Arn>/ledger/*"),
            ("s3:GetObject", "<LedgerBucket.Arn>/ledger/*"),
            ("s3:ListBucket", "<LedgerBucket.Arn>"),
            ("logs:CreateLogStream", "<SweeperLogs.Arn>"),
            ("logs:PutLogEvents", "<SweeperLogs.Arn>"),
            ("xray:PutTraceSegments", "*"),
            ("xray:PutTelemetryRecords", "*"),
        }, granted
        for (action, *_), condition in granted.items():
            if action.startswith("s3:"):
                assert condition["StringEquals"]["aws:ResourceAccount"] == "123456789012", action
        listed = granted[("s3:ListBucketVersions", "arn:aws:s3:::pictures")]
        assert listed.get("StringLike", {}).get("s3:prefix") == (f"{folder}*" if prefix else None)
    for actions, resources, _ in stack.statements("SweeperRole"):
        assert "s3:DeleteObjectVersion" not in actions
        if "lambda:InvokeFunction" in actions:
            assert resources == ["<Restorer.Arn>"], "the sweep may start more than the undo function"
    source = (ROOT / "src" / "lambda" / "undo.rs").read_text()
    assert 'HANDLER: &str = "restore"' in source


def check_distributed(template):
    """Nothing of it is there until it is asked for; then it may start the one function, and
    the schedule starts it in the function's place."""
    parts = {"Distributed", "DistributedRole", "DistributedNightly", "DistributedAlarm"}
    alone = Stack(template)
    assert not any(map(alone.condition_holds, parts))
    topic = "arn:aws:sns:us-east-1:123456789012:topic"
    stack = Stack(template, RangesAtOnce=7, AlarmTopicArn=topic)
    assert all(map(stack.condition_holds, parts))
    check_roles(stack)
    function = stack.resources["Sweeper"]["Properties"]
    assert function["ReservedConcurrentExecutions"] == 7
    unreserved = Stack(template, RangesAtOnce=7, ReservedConcurrency="-1").resources["Sweeper"]["Properties"]
    assert "ReservedConcurrentExecutions" not in unreserved
    schedules = stack.of_type("AWS::Scheduler::Schedule")
    assert {name: schedule["State"] for name, schedule in schedules.items()} == {
        "SweeperNightly": "DISABLED",
        "DistributedNightly": "ENABLED",
    }
    nightly, ours = schedules["SweeperNightly"], schedules["DistributedNightly"]
    assert ours["Target"].pop("Arn") == "<Distributed>"
    nightly["Target"].pop("Arn")
    assert ours["Target"] == nightly["Target"]
    for field in ("ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow"):
        assert ours[field] == nightly[field], field
    off = Stack(template, RangesAtOnce=7, ScheduleState="DISABLED").of_type("AWS::Scheduler::Schedule")
    assert {schedule["State"] for schedule in off.values()} == {"DISABLED"}
    schedule = [(actions, resources) for actions, resources, _ in stack.statements("ScheduleRole")]
    assert (["states:StartExecution"], ["<Distributed>"]) in schedule and len(schedule) == 3
    name = stack.resources["Distributed"]["Properties"]["StateMachineName"]
    arn = f"arn:aws:states:us-east-1:123456789012:{{}}:{name}"
    granted = {action: resources for actions, resources, _ in stack.statements("DistributedRole") for action in actions}
    assert granted == {
        "lambda:InvokeFunction": ["<Sweeper.Arn>"],
        "s3:GetObject": ["<LedgerBucket.Arn>/ledger/ranges.json"],
        "states:StartExecution": [arn.format("stateMachine")],
        "states:DescribeExecution": [arn.format("execution") + "/*"],
        "states:StopExecution": [arn.format("execution") + "/*"],
        "xray:PutTraceSegments": ["*"],
        "xray:PutTelemetryRecords": ["*"],
    }, granted
    machine = json.loads(stack.resources["Distributed"]["Properties"]["DefinitionString"])
    ranges = machine["States"]["Ranges"]
    assert ranges["MaxConcurrency"] == 7
    assert ranges["ItemReader"]["Parameters"] == {"Bucket": "<LedgerBucket>", "Key": "ledger/ranges.json"}
    assert stack.outputs["RangesLocation"]["Value"] == "s3://<LedgerBucket>/ledger/ranges.json"
    # A range that fails is caught, so that the others have their turn, and told in the end.
    assert not [field for field in ranges if field.startswith("Tolerated")]
    sweep = ranges["ItemProcessor"]["States"]["Sweep"]
    assert sweep["Parameters"]["FunctionName"] == "<Sweeper.Arn>"
    assert [caught["ErrorEquals"] for caught in sweep["Catch"]] == [["States.ALL"]]
    # What began is not begun again: the next night does it.
    assert [again["ErrorEquals"] for again in sweep["Retry"]] == [["Lambda.TooManyRequestsException"]]
    assert machine["States"][machine["States"]["Judge"]["Choices"][0]["Next"]]["Type"] == "Fail"
    alarm = stack.resources["DistributedAlarm"]["Properties"]
    assert alarm["Dimensions"] == [{"Name": "StateMachineArn", "Value": "<Distributed>"}]
    assert alarm["AlarmActions"] == [topic]
    body = json.loads(stack.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
    summed = {widget["properties"]["title"] for widget in body["widgets"] if widget["properties"]["stat"] == "Sum"}
    assert summed == {widget["properties"]["title"] for widget in body["widgets"]} - {"Duration"}
    assert stack.outputs["StartDistributed"]["Value"].startswith("echo '{\"dry_run\":true}' |")


def check_dead_letters(stack):
    queue = "<DeadLetters.Arn>"
    asynchronous = stack.only("AWS::Lambda::EventInvokeConfig")
    assert asynchronous["DestinationConfig"]["OnFailure"]["Destination"] == queue
    assert stack.only("AWS::Scheduler::Schedule")["Target"]["DeadLetterConfig"] == {"Arn": queue}
    assert stack.only("AWS::SQS::Queue")["SqsManagedSseEnabled"] is True
    assert stack.resources["Sweeper"]["Properties"]["TracingConfig"] == {"Mode": "Active"}


def check_files():
    """The events that come with the template are ones that the function takes."""
    assert json.loads((ROOT / "events" / "nightly.json").read_text()) == {}
    assert json.loads((ROOT / "events" / "dry-run.json").read_text()) == {"dry_run": True}
    assert list(json.loads((ROOT / "events" / "one-prefix.json").read_text())) == ["prefix"]
    assert list(json.loads((ROOT / "events" / "one-range.json").read_text())) == ["after", "up_to"]
    # What a distributed run is started with goes to each of its ranges.
    assert json.loads((ROOT / "events" / "distributed.json").read_text()) == {"dry_run": True}
    deploy = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"]["deploy"]["parameters"]
    assert deploy["capabilities"] == "CAPABILITY_IAM"


def check_ledger(stack):
    bucket = stack.resources["LedgerBucket"]
    assert bucket["DeletionPolicy"] == "Retain"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    properties = bucket["Properties"]
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert "BucketEncryption" in properties
    (statement,) = stack.only("AWS::S3::BucketPolicy")["PolicyDocument"]["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    expiry = [r.get("ExpirationInDays") for r in properties["LifecycleConfiguration"]["Rules"]]
    assert 365 in expiry


def check_parameters(template):
    stack = Stack(
        template,
        Architecture="x86_64",
        DryRun="false",
        LedgerRetentionDays=0,
        TimeZone="Asia/Seoul",
    )
    function = stack.resources["Sweeper"]["Properties"]
    assert function["Architectures"] == ["x86_64"]
    assert function["Environment"]["Variables"]["SWEEPER_DRY_RUN"] == "false"
    schedule = stack.only("AWS::Scheduler::Schedule")
    assert schedule["ScheduleExpressionTimezone"] == "Asia/Seoul"
    rules = stack.resources["LedgerBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert not any("ExpirationInDays" in rule for rule in rules), "0 must keep the ledger"
    for none in ("", "-1"):
        function = Stack(template, ReservedConcurrency=none).resources["Sweeper"]["Properties"]
        assert "ReservedConcurrentExecutions" not in function
    aborting = Stack(template, AbortUploads="true")
    granted = {a for actions, _, _ in aborting.statements("SweeperRole") for a in actions}
    assert granted == SWEEP_ACTIONS | {"s3:AbortMultipartUpload"}
    environment = aborting.resources["Sweeper"]["Properties"]["Environment"]["Variables"]
    assert environment["SWEEPER_ABORT_UPLOADS"] == "true"
    assert template["Parameters"]["DatabaseUrl"]["NoEcho"] is True
    pattern = template["Parameters"]["DatabaseUser"]["AllowedPattern"]
    for hostile in ("*", "u*", "${aws:username}", "u/v"):
        assert not re.fullmatch(pattern, hostile), f"{hostile} would widen the permissions"
    for name, parameter in template["Parameters"].items():
        assert parameter.get("Description"), f"{name} is not described"


def check_scope(template):
    # What is given, what is swept.
    for given, folder in [
        ("", ""),
        ("images", "images/"),
        ("images/", "images/"),
        ("a/b", "a/b/"),
        ("a/b/", "a/b/"),
        ("a//b", "a//b/"),
        ("a//", "a//"),
        ("/", "/"),
        ("/a", "/a/"),
    ]:
        stack = Stack(template, BucketName="pictures", Prefix=given)
        for actions, resources, condition in stack.statements("SweeperRole"):
            if "s3:DeleteObject" in actions:
                assert "s3:GetObject" in actions, "a conditional deletion needs s3:GetObject"
                assert resources == [f"arn:aws:s3:::pictures/{folder}*"], f"{given}: {resources}"
            if "s3:ListMultipartUploadParts" in actions:
                assert resources == [f"arn:aws:s3:::pictures/{folder}*"], f"{given}: {resources}"
            if "s3:ListBucket" in actions:
                if resources == ["<LedgerBucket.Arn>"]:
                    assert condition["StringLike"] == {"s3:prefix": "ledger/*"}
                    continue
                assert "s3:ListBucketVersions" in actions, "versions settle a lost answer"
                assert resources == ["arn:aws:s3:::pictures"]
                prefixes = condition.get("StringLike", {}).get("s3:prefix")
                expected = f"{folder}*" if given else None
                assert prefixes == expected, f"{given}: {prefixes}"
            if "s3:PutObject" in actions:
                assert resources == ["<LedgerBucket.Arn>/ledger/*"]
    pattern = template["Parameters"]["Prefix"]["AllowedPattern"]
    for hostile in ("im*", "im?", "${aws:username}", "a|b", "a\nb"):
        assert not re.fullmatch(pattern, hostile), f"{hostile} would widen the permissions"


def check_outputs(stack):
    dry = stack.outputs["InvokeDryRun"]["Value"]
    assert dry.startswith("echo '{\"dry_run\":true}' |"), dry
    for name in ("InvokeDryRun", "InvokeNow"):
        line = stack.outputs[name]["Value"]
        # Without these the client would start a second run.
        assert "AWS_MAX_ATTEMPTS=1 " in line and "--cli-read-timeout 0 " in line, line


def check_groups(text):
    template = yaml_parse(text)
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"]), "parameters and groups differ"


def check_build(text):
    metadata = yaml_parse(text)["Resources"]["Sweeper"]["Metadata"]
    assert metadata["BuildMethod"] == "rust-cargolambda"
    assert metadata["BuildProperties"] == {"Binary": "bootstrap"}
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    build = manifest["package"]["metadata"]["lambda"]["build"]
    assert build["no_default_features"] is True
    assert build["features"] == ["lambda"]
    # Its own optimisations would make a panic abort the process.
    assert build["disable_optimizations"] is True
    given = tomllib.loads("\n".join(build["config"]))["profile"]["release"]
    profile = dict(manifest["profile"]["function"])
    assert profile.pop("inherits") == "release"
    assert given == profile, f"{given} is not profile.function: {profile}"
    assert "lambda" not in manifest["profile"], "its folder is cargo lambda's"
    for name in ("release", "function"):
        assert manifest["profile"][name].get("panic") != "abort", "panics must unwind"


def check_source(template):
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    function = Stack(template).resources["Sweeper"]["Properties"]
    for name in function["Environment"]["Variables"]:
        assert re.search(rf"\b{name}\b", source), f"the template sets {name}, nothing in src reads it"
    settings = (ROOT / "src" / "settings" / "raw.rs").read_text()
    read = set(re.findall(r'"--[a-z-]+",\s*"([A-Z_]+)"', settings))
    # The parameter MinAge takes whole hours from one on.
    # A part of the keys is what an event asks for.
    missing = read - CONTRACT - {"SWEEPER_ALLOW_SHORT_MIN_AGE", "SWEEPER_AFTER", "SWEEPER_UP_TO"}
    assert read > CONTRACT and not missing, f"src reads {sorted(missing)}, the template cannot set it"


def check(text):
    template = translate(text)
    stack = Stack(template)
    check_function(stack)
    check_schedule(stack)
    check_permissions(stack)
    check_ledger(stack)
    check_dead_letters(stack)
    check_outputs(stack)
    check_options(template)
    check_rules(template)
    check_alarms(template)
    check_undo(template)
    check_distributed(template)
    check_parameters(template)
    check_scope(template)
    check_groups(text)
    check_build(text)
    return template


# Each is a mistake that must be noticed: what is there, what it becomes.
BREAKS = [
    ("SWEEPER_BUCKET:", "SWEEPER_BUKCET:"),
    ("          SWEEPER_MIN_AGE: !Ref MinAge\n", ""),
    ("SWEEPER_DRY_RUN: !Ref DryRun", 'SWEEPER_DRY_RUN: "false"'),
    ("SWEEPER_DRY_RUN: !Ref DryRun", 'SWEEPER_DRY_RUN: "true"'),
    (
        'Default: "true"\n    Description: Leave at true',
        'Default: "false"\n    Description: Leave at true',
    ),
    ('Default: "false"\n    Description: Delete although the bucket', 'Default: "true"\n    Description: X'),
    ('Default: "false"\n    Description: Accept a standby', 'Default: "true"\n    Description: X'),
    ('Default: "false"\n    Description: Delete although transactions', 'Default: "true"\n    Description: X'),
    ('Default: ""\n    Description: Folders in which nothing', 'Default: "images/"\n    Description: X'),
    ('Default: ""\n    Description: Columns whose mentions', 'Default: "public.users.avatar"\n    Description: X'),
    ('Default: "false"\n    Description: Delete although 20', 'Default: "true"\n    Description: X'),
    ('Default: "false"\n    Description: Delete although the storage', 'Default: "true"\n    Description: X'),
    ('Default: "false"\n    Description: Abort multipart', 'Default: "true"\n    Description: X'),
    ("!If [AbortsUploads, s3:AbortMultipartUpload, !Ref AWS::NoValue]", "s3:AbortMultipartUpload"),
    ("                  - !If [AbortsUploads, s3:AbortMultipartUpload, !Ref AWS::NoValue]\n", ""),
    ("                  - s3:ListBucketMultipartUploads\n", ""),
    ("                  - s3:GetLifecycleConfiguration\n", ""),
    ("Default: 24h", "Default: 1h"),
    ("Default: SELECT name FROM images", "Default: SELECT thumb FROM images"),
    ("s3://${LedgerBucket}/ledger\n          # What", "s3://${BucketName}/ledger\n          # What"),
    ("NoEcho: true", "NoEcho: false"),
    ("Architectures: [!Ref Architecture]", "Architectures: [arm64]"),
    ("Timeout: 900", "Timeout: 60"),
    ("Runtime: provided.al2023", "Runtime: provided.al2"),
    ("        - Reserves\n", "        - HasPrefix\n"),
    ("!If [Distributes, !Ref RangesAtOnce, !Ref ReservedConcurrency]", "!Ref ReservedConcurrency"),
    ("            State: !If [Distributes, DISABLED, !Ref ScheduleState]", "            State: !Ref ScheduleState"),
    ("      State: !Ref ScheduleState\n      Target", "      State: ENABLED\n      Target"),
    ("    Condition: Distributes\n    Properties:\n      Description: !Sub Sweeps the ranges", "    Properties:\n      Description: !Sub Sweeps the ranges"),
    ("                  Resource: !Ref Distributed\n", '                  Resource: "*"\n'),
    ("Resource: !Sub ${LedgerBucket.Arn}/ledger/ranges.json", "Resource: !Sub ${LedgerBucket.Arn}/*"),
    ("stateMachine:${AWS::StackName}-ranges", "stateMachine:*"),
    ("execution:${AWS::StackName}-ranges/*", "execution:*"),
    ('"MaxConcurrency": ${RangesAtOnce}', '"MaxConcurrency": "${RangesAtOnce}"'),
    ('"Key": "ledger/ranges.json"', '"Key": "ranges.json"'),
    ('"MaxConcurrency": ${RangesAtOnce}', '"MaxConcurrency": ${RangesAtOnce}, "ToleratedFailurePercentage": 100'),
    ('"ErrorEquals": ["Lambda.TooManyRequestsException"]', '"ErrorEquals": ["States.ALL"]'),
    ('"Type": "Fail",', '"Type": "Succeed",'),
    ("Value: !Ref Distributed}]", "Value: !Ref DistributedRole}]"),
    ("Stat: !If [Distributes, Sum, Maximum]", "Stat: Maximum"),
    ('Default: "1"', 'Default: "2"'),
    ("LogFormat: JSON", "LogFormat: Text"),
    ("        MaximumRetryAttempts: 0\n", "        MaximumRetryAttempts: 2\n"),
    ("              MaximumRetryAttempts: 0\n", "              MaximumRetryAttempts: 3\n"),
    ("MaximumEventAgeInSeconds: 3600", "MaximumEventAgeInSeconds: 86400"),
    ("ScheduleExpressionTimezone: !Ref TimeZone", "ScheduleExpressionTimezone: UTC"),
    ("Default: cron(0 0 * * ? *)", "Default: cron(0 12 * * ? *)"),
    ("Default: UTC", "Default: Asia/Seoul"),
    ("            OmitName: true\n", ""),
    ('Mode: "OFF"', "Mode: FLEXIBLE\n              MaximumWindowInMinutes: 5"),
    ('            Input: "{}"\n', ""),
    ("            RoleArn: !GetAtt ScheduleRole.Arn\n", ""),
    ("      Role: !GetAtt SweeperRole.Arn\n", ""),
    ("Action: [s3:GetObject, s3:DeleteObject]", "Action: [s3:GetObject, s3:DeleteObject, s3:DeleteObjectVersion]"),
    ("Action: [s3:GetObject, s3:DeleteObject]", "Action: [s3:GetObject, s3:Delete*]"),
    ("Action: [s3:GetObject, s3:DeleteObject]", "Action: [s3:DeleteObject]"),
    ("Action: [s3:ListBucket, s3:ListBucketVersions]", "Action: s3:ListBucket"),
    ("Resource: !GetAtt LedgerBucket.Arn\n                Condition", "Resource: !Sub ${LedgerBucket.Arn}/*\n                Condition"),
    ("Action: [s3:PutObject, s3:GetObject]", "Action: s3:GetObject"),
    ("${LedgerBucket.Arn}/ledger/*", "${LedgerBucket.Arn}/*"),
    ("Resource: !GetAtt SweeperLogs.Arn", 'Resource: "*"'),
    ("Resource: !GetAtt Sweeper.Arn", 'Resource: "*"'),
    ("Action: lambda:InvokeFunction", "Action: lambda:*"),
    ("                Resource: !Sub ${LedgerBucket.Arn}/ledger/*\n                Condition:\n                  StringEquals: {aws:ResourceAccount: !Ref AWS::AccountId}\n", "                Resource: !Sub ${LedgerBucket.Arn}/ledger/*\n"),
    ("- ${Folder}/*", "- ${Folder}*"),
    ("${BucketName}/${Folder}/*", "${BucketName}/${Folder}*"),
    ('!Join ["/|", !Split ["//|", !Sub "${Prefix}/|"]]', '!Sub "${Prefix}/|"'),
    ("    AllowedPattern: \"^[0-9A-Za-z/ !&'()+,.:;=@_~-]*$\"", '    AllowedPattern: "^.*$"'),
    ("    DeletionPolicy: Retain\n", ""),
    ("    UpdateReplacePolicy: Retain\n    Properties:\n      BucketEncryption", "    Properties:\n      BucketEncryption"),
    ("      VersioningConfiguration: {Status: Enabled}\n", ""),
    ("        RestrictPublicBuckets: true\n", ""),
    ("BlockPublicAcls: true", "BlockPublicAcls: false"),
    ('Bool: {aws:SecureTransport: "false"}', 'Bool: {aws:SecureTransport: "true"}'),
    ("Default: 365", "Default: 1"),
    ("            - LedgerExpires\n", "            - HasPrefix\n"),
    ("!GetAtt SweeperLogs.Arn", "!GetAtt Logs.Arn"),
    ("!Ref DistributedNightly, !Ref SweeperNightly]", "!Ref DistributedNightly, !Ref SweeperNightlySchedule]"),
    ("!Equals [!Ref Prefix, \"\"]", "!Equals [!Ref Prefiks, \"\"]"),
    ('                  "Null": {s3:if-match: "true"}', '                  "Null": {s3:if-match: "false"}'),
    ("                  - s3:DeleteObjectVersion\n", ""),
    ("                Effect: Deny\n                Action: s3:DeleteObject\n", "                Effect: Allow\n                Action: s3:DeleteObject\n"),
    ("Resource: !Ref DatabaseSecretArn", 'Resource: "*"'),
    ("dbuser:${DatabaseResourceId}/${DatabaseUser}", "dbuser:${DatabaseResourceId}/*"),
    ('AllowedPattern: "^[0-9A-Za-z_.@-]*$"', 'AllowedPattern: "^.*$"'),
    ("kms:ViaService", "kms:CallerAccount"),
    ("            Destination: !GetAtt DeadLetters.Arn\n", "            Destination: !GetAtt Letters.Arn\n"),
    ("            DeadLetterConfig:\n              Arn: !GetAtt DeadLetters.Arn\n", ""),
    ("                Action: sqs:SendMessage\n                Resource: !GetAtt DeadLetters.Arn\n\n", "                Action: sqs:SendMessage\n                Resource: \"*\"\n\n"),
    ("SqsManagedSseEnabled: true", "SqsManagedSseEnabled: false"),
    ("      Tracing: Active\n", ""),
    ("TreatMissingData: breaching", "TreatMissingData: notBreaching"),
    ("      Period: 3600\n", "      Period: 300\n"),
    ("    Default: 26\n", "    Default: 200\n"),
    ("MetricName: runs_refused", "MetricName: refused"),
    ("MetricName: deleted", "MetricName: deletions"),
    ('            - "*"\n      Statistic: Sum\n', '            - ""\n      Statistic: Sum\n'),
    ('[["OrphanSweeper", "dangling"', '[["OrphanSweeper", "broken"'),
    ("AlarmActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]", "AlarmActions: []"),
    ("SecurityGroupIds: [!Ref SweeperSecurityGroup]", "SecurityGroupIds: []"),
    ("    Condition: OpensDatabase\n", "    Condition: InVpc\n"),
    ("          - !And [!Equals [!Ref DatabaseUrl, \"\"]", "          - !Or [!Equals [!Ref DatabaseUrl, \"\"]"),
    ("      - Assert: !Not [!Equals [!Ref DatabaseUser, \"\"]]", "      - Assert: !Not [!Equals [!Ref DatabaseUrl, \"\"]]"),
    ("    RuleCondition: !Equals [!Ref DatabaseIam, \"true\"]", "    RuleCondition: !Equals [!Ref DatabaseIam, \"false\"]"),
    ("!If [HasCaLayer, /opt/ca.pem, \"\"]", "/opt/ca.pem"),
    ("      Handler: restore\n", "      Handler: bootstrap\n"),
    ("      Role: !GetAtt RestorerRole.Arn\n", "      Role: !GetAtt SweeperRole.Arn\n"),
    ("                Action: s3:DeleteObjectVersion\n", "                Action: s3:DeleteObject*\n"),
    ("AWS_MAX_ATTEMPTS=1 ", ""),
    ("--cli-read-timeout 0 ", ""),
    ("echo '{\"dry_run\":true}'", "echo '{}'"),
    ("Parameters: [BucketName, Prefix, Include, Exclude, MinAge]", "Parameters: [BucketName, Prefix, Include, MinAge]"),
    ("                Action: lambda:InvokeFunction\n                Resource: !GetAtt Restorer.Arn\n", "                Action: lambda:InvokeFunction\n                Resource: !GetAtt Sweeper.Arn\n"),
    ("          SWEEPER_UNDO_FUNCTION: !GetAtt Restorer.Arn\n", '          SWEEPER_UNDO_FUNCTION: ""\n'),
    ("    Condition: MakesLambdaEndpoint\n", "    Condition: InVpc\n"),
    ("Binary: bootstrap", "Binary: orphan-sweeper"),
    ("BuildMethod: rust-cargolambda", "BuildMethod: makefile"),
]


def main():
    if len(sys.argv) > 1:
        check(Path(sys.argv[1]).read_text())
        return
    text = (ROOT / "template.yaml").read_text()
    check_source(check(text))
    check_files()
    missed = []
    for was, becomes in BREAKS:
        assert was in text, f"the template no longer says {was!r}"
        try:
            check(text.replace(was, becomes))
        except Exception as noticed:
            if os.environ.get("VERBOSE"):
                print(f"{becomes.strip()[:60]!r}: {type(noticed).__name__}: {noticed}")
            continue
        missed.append((was, becomes))
    for was, becomes in missed:
        print(f"not noticed: {was!r} became {becomes!r}", file=sys.stderr)
    if missed:
        sys.exit(1)
    print(f"template.yaml holds; {len(BREAKS)} ways of breaking it are noticed")


if __name__ == "__main__":
    main()
