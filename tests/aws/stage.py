"""What the tests of the deployed function stand on: a real PostgreSQL, servers that
speak AWS's protocols on this machine, and a stack made of the translated template."""

import glob
import io
import json
import logging
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from pathlib import Path

import boto3
import psycopg
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"
ACCOUNT = "000000000000"

# Nobody waits longer than this for something that does not come.
PATIENCE = 180


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition, patience=PATIENCE):
    """Asks again and again until the answer is one."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"waited {patience} s for {what}"
        time.sleep(0.2)


def clean_environment(**more):
    """What a program needs of its surroundings, and nothing of the person who started it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    } | more


class Postgres:
    """The installed PostgreSQL, with a folder of its own."""

    def __init__(self, folder):
        found = shutil.which("initdb") or sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))[-1]
        self.bin = Path(found).parent
        self.folder = Path(folder)
        self.port = free_port()
        # It refuses to serve root.
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.chown(self.folder, pwd.getpwnam(self.user).pw_uid, -1)
        password = self.folder / "password"
        password.write_text("postgres\n")
        password.chmod(0o644)
        self.call("initdb", "-D", self.folder / "data", "-U", "postgres", "-E", "UTF8", "-A", "scram-sha-256", "--pwfile", password, "--no-sync")
        self.start()
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE app")
        self.sql("CREATE TABLE images (name text PRIMARY KEY)")
        self.sql("CREATE ROLE sweeper LOGIN PASSWORD 'first'")
        self.sql("GRANT SELECT ON images TO sweeper")

    def call(self, program, *arguments):
        with open(self.folder / "log", "a") as log:
            subprocess.run(
                [self.bin / program, *map(str, arguments)],
                check=True,
                user=self.user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "data" / "server.log", "-o", options, "start")

    def stop(self):
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def connect(self, database="app"):
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password="postgres", dbname=database, autocommit=True
        )

    def sql(self, text, *values):
        with self.connect() as connection:
            connection.execute(text, values or None)

    def secret(self, password="first", **other):
        """What RDS writes of it."""
        return json.dumps(
            {"engine": "postgres", "host": "127.0.0.1", "port": self.port, "username": "sweeper", "password": password, "dbname": "app"}
            | other
        )


@contextmanager
def postgres():
    # Its own user must come into the folder.
    folder = tempfile.mkdtemp(prefix="sweeper-pg-", dir="/tmp")
    os.chmod(folder, 0o755)
    database = Postgres(Path(folder) / "cluster")
    try:
        yield database
    finally:
        database.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server(command, environment, healthy):
    """A server that is started, waited for and ended."""
    with tempfile.NamedTemporaryFile("w+", prefix="sweeper-server-") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:

            def is_up():
                assert process.poll() is None, f"{command[0]} ended:\n{Path(log.name).read_text()[-4000:]}"
                try:
                    with urllib.request.urlopen(healthy, timeout=2):
                        return True
                except OSError:
                    return False

            wait_for(command[0], is_up)
            yield process
        except BaseException:
            sys.stderr.write(f"\n-- the end of the log of {command[0]}:\n{Path(log.name).read_text()[-6000:]}\n")
            raise
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Cloud:
    """AWS, as far as ministack is it."""

    def __init__(self, endpoint, process):
        self.endpoint = endpoint
        self.process = process

    def client(self, service, **more):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                retries={"total_max_attempts": 1},
                read_timeout=PATIENCE,
                s3={"addressing_style": "path"},
            ),
            **more,
        )


@contextmanager
def ministack():
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = clean_environment(
        # By default it would listen to the whole network.
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(port),
        LAMBDA_EXECUTOR="local",
        AWS_ENDPOINT_URL=endpoint,
        PYTHONUNBUFFERED="1",
    )
    with server([str(Path(sys.executable).parent / "ministack")], environment, f"{endpoint}/_ministack/health") as process:
        yield Cloud(endpoint, process)


def transformed(text, code=None):
    """The template as CloudFormation gets it after SAM's transformation; its code is there,
    or where the template says."""
    logging.disable(logging.WARNING)  # the translator's, about metrics of its own
    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    from samtranslator.translator.transform import transform
    from samtranslator.yaml_helper import yaml_parse

    template = yaml_parse(text)
    for resource in template["Resources"].values():
        if code and "CodeUri" in resource.get("Properties", {}):
            resource["Properties"]["CodeUri"] = code

    class NoManagedPolicies:
        def load(self):
            return {}

    # Inline, a template may be no longer than 51,200 characters.
    return json.dumps(transform(template, {}, NoManagedPolicies()), separators=(",", ":"))


def translated(code_bucket, code_key):
    """This template, transformed."""
    return transformed((ROOT / "template.yaml").read_text(), f"s3://{code_bucket}/{code_key}")


def zipped(bootstrap):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("bootstrap", (2026, 1, 1, 0, 0, 0))
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, Path(bootstrap).read_bytes(), zipfile.ZIP_DEFLATED, 1)
    return packed.getvalue()


class Stack:
    """A stack of the template, deployed and deployed again."""

    NAME = "sweeper"

    def __init__(self, cloud, bootstrap, parameters):
        self.cloud = cloud
        self.cloudformation = cloud.client("cloudformation")
        self.lambda_ = cloud.client("lambda")
        self.parameters = parameters
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="code")
        s3.put_object(Bucket="code", Key="bootstrap.zip", Body=zipped(bootstrap))
        self.body = translated("code", "bootstrap.zip")
        self.deploy(self.cloudformation.create_stack)

    def update(self, **parameters):
        self.parameters = self.parameters | parameters
        self.deploy(self.cloudformation.update_stack)

    def deploy(self, how):
        how(
            StackName=self.NAME,
            TemplateBody=self.body,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value} for name, value in self.parameters.items()
            ],
        )

        def ended():
            (stack,) = self.cloudformation.describe_stacks(StackName=self.NAME)["Stacks"]
            return not stack["StackStatus"].endswith("IN_PROGRESS") and stack

        stack = wait_for("the stack", ended)
        if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            events = self.cloudformation.describe_stack_events(StackName=self.NAME)["StackEvents"]
            failed = [e for e in events if "FAILED" in e["ResourceStatus"]]
            raise AssertionError(f"{stack['StackStatus']}: {json.dumps(failed, default=str, indent=1)}")
        self.outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
        self.shorten()

    def shorten(self, **more):
        """Objects that were put a moment ago are to be old: the one thing that the template
        rightly does not let anybody configure."""
        variables = self.lambda_.get_function_configuration(FunctionName=self.function)["Environment"]["Variables"]
        variables |= {"SWEEPER_MIN_AGE": "0s", "SWEEPER_ALLOW_SHORT_MIN_AGE": "true"} | more
        self.lambda_.update_function_configuration(FunctionName=self.function, Environment={"Variables": variables})

    @property
    def function(self):
        return self.outputs["FunctionName"]

    def invoke(self, event=None):
        """The answer, and how it failed, if it did."""
        answer = self.lambda_.invoke(FunctionName=self.function, Payload=json.dumps(event or {}))
        return json.loads(answer["Payload"].read()), answer.get("FunctionError")
