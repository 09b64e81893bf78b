"""Runs the function as it is shipped with the permissions that the template gives it, and
with each of them taken away in turn: then it ends with the error that the README promises,
and deletes nothing.

    python tests/aws/permissions.py path/to/bootstrap

moto holds each call against the policy's actions and resources, but knows neither its
conditions nor the keys of a batch. So a proxy before it judges batch deletions by the policy
document itself, key by key, with conditions and denials, as
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-delete-enforce.html tells it,
and keeps the promise of the condition, which moto does not. What Lambda and its services
do with the role (logs, traces, dead letters, network) is no call of the function's own, and
is left to tests/template/check.py.
"""

import fnmatch
import json
import queue
import re
import subprocess
import sys
import threading
import time
import urllib.request
import xml.etree.ElementTree as xml
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config

from stage import PATIENCE, REGION, ROOT, clean_environment, free_port, postgres, server, translated, wait_for

sys.path.insert(0, str(ROOT / "tests" / "template"))
from check import Stack  # noqa: E402

BUCKET, LEDGER, NAMED = "pictures", "ledger", "images/named.png"

# The calls that a run makes by itself, the statement that allows each, and how it ends
# without it. None: an ordinary run does without (an answer that was lost is what these are
# for).
TAKEN_AWAY = [
    ("List", "s3:ListBucket", "Storage", "AccessDenied"),
    ("List", "s3:ListBucketVersions", None, None),
    ("Versioned", "s3:GetBucketVersioning", "Storage", "AccessDenied"),
    ("Delete", "s3:DeleteObject", "Storage", "AccessDenied"),
    ("Delete", "s3:GetObject", "Storage", "AccessDenied"),
    ("Ledger", "s3:PutObject", "Ledger", "AccessDenied"),
    ("Ledger", "s3:GetObject", "Ledger", "AccessDenied"),
    ("FindInLedger", "s3:ListBucket", None, None),
    # moto's refusal is no JSON, so it has no code.
    ("Secret", "secretsmanager:GetSecretValue", "Database", "Http403"),
]


class Policy:
    """What the role may do, with what conditions: enough of IAM for a deletion."""

    def __init__(self, document):
        self.statements = document["Statement"]

    def allows(self, action, resource, context):
        effects = {s["Effect"] for s in self.statements if self.matches(s, action, resource, context)}
        return effects == {"Allow"}

    @staticmethod
    def matches(statement, action, resource, context):
        def any_of(patterns, value):
            patterns = patterns if isinstance(patterns, list) else [patterns]
            # IAM knows * and ?, but no brackets.
            return any(fnmatch.fnmatchcase(value, p.replace("[", "[[]")) for p in patterns)

        if not any_of(statement["Action"], action) or not any_of(statement["Resource"], resource):
            return False
        for operator, wanted in statement.get("Condition", {}).items():
            for key, values in wanted.items():
                if operator == "Null":
                    if (key not in context) != (values == "true"):
                        return False
                elif operator in ("StringEquals", "StringLike"):
                    if key not in context or not any_of(values, context[key]):
                        return False
                else:
                    raise AssertionError(f"{operator} is not known here")
        return True


class Moto:
    """S3, Secrets Manager and IAM, by moto, as an administrator sees them."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.admin = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
        iam = self.client("iam")
        iam.create_user(UserName="admin")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="admin")["AccessKey"]
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
        }
        self.role = iam.create_role(RoleName="sweeper", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        self.credentials = self.client("sts").assume_role(RoleArn=self.role, RoleSessionName="run")["Credentials"]
        self.admin = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}

    def client(self, service):
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return boto3.client(service, endpoint_url=self.endpoint, region_name=REGION, config=config, **self.admin)

    def enforce(self):
        request = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=10).read()

    def grant(self, document):
        # Its conditions moto takes for none, so a conditional denial would deny all.
        allowed = json.loads(json.dumps(document))
        allowed["Statement"] = [s for s in allowed["Statement"] if s["Effect"] == "Allow"]
        for statement in allowed["Statement"]:
            # Of other services than S3 it knows the actions only; tests/template/check.py
            # sees to it that this is the one secret.
            if statement["Action"] == "secretsmanager:GetSecretValue":
                statement["Resource"] = "*"
        self.client("iam").put_role_policy(RoleName="sweeper", PolicyName="sweep", PolicyDocument=json.dumps(allowed))


class Proxy(BaseHTTPRequestHandler):
    """Before moto: batch deletions are judged and carried out here, all else is passed on."""

    protocol_version = "HTTP/1.1"
    moto = policy = batches = None

    def log_message(self, *_):
        pass

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        if self.command == "POST" and re.search(r"(^|&)delete(=|&|$)", query):
            return self.delete(path.strip("/"), body)
        request = urllib.request.Request(self.moto.endpoint + self.path, body or None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "content-length", "accept-encoding"):
                request.add_header(name, value)
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            # S3's own name for it, on which the SDK insists.
            text = answer.read().replace(b"GetBucketVersioningResponse", b"VersioningConfiguration")
            self.answer(answer.status, answer.headers.items(), text)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

    def answer(self, status, headers, body):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "content-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def delete(self, bucket, body):
        s3 = self.moto.client("s3")
        space = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
        lines = []
        for asked in xml.fromstring(body).findall("s3:Object", space):
            key, etag = asked.findtext("s3:Key", None, space), asked.findtext("s3:ETag", None, space)
            context = {"aws:ResourceAccount": "123456789012"} | ({"s3:if-match": etag} if etag else {})
            resource = f"arn:aws:s3:::{bucket}/{key}"
            # A condition on the ETag tells what the object is, so it needs the right to read.
            needed = ["s3:DeleteObject"] + (["s3:GetObject"] if etag else [])
            code = None
            if not all(self.policy.allows(action, resource, context) for action in needed):
                code = "AccessDenied"
            elif etag:
                try:
                    if s3.head_object(Bucket=bucket, Key=key)["ETag"] != etag:
                        code = "PreconditionFailed"
                except s3.exceptions.ClientError:
                    code = "NoSuchKey"
            if code:
                lines.append(f"<Error><Key>{escape(key)}</Key><Code>{code}</Code><Message>{code}</Message></Error>")
            else:
                gone = s3.delete_object(Bucket=bucket, Key=key)
                lines.append(
                    f"<Deleted><Key>{escape(key)}</Key><DeleteMarker>true</DeleteMarker>"
                    f"<DeleteMarkerVersionId>{gone['VersionId']}</DeleteMarkerVersionId></Deleted>"
                )
        self.batches.append(body)
        text = f'<?xml version="1.0"?><DeleteResult xmlns="{space["s3"]}">{"".join(lines)}</DeleteResult>'
        self.answer(200, [("Content-Type", "application/xml")], text.encode())


class Runtime(BaseHTTPRequestHandler):
    """Lambda's Runtime API for one function: one event after another."""

    protocol_version = "HTTP/1.1"
    events = answers = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        event = self.events.get()
        deadline = str(int(time.time() * 1000) + 900_000)
        self.send_response_only(200)
        for name, value in (
            ("Lambda-Runtime-Aws-Request-Id", "11111111-1111-4111-8111-111111111111"),
            ("Lambda-Runtime-Deadline-Ms", deadline),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:sweeper"),
            ("Content-Length", str(len(event))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answers.put((self.path.rsplit("/", 1)[1], json.loads(body)))
        self.send_response_only(202)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # A function that is killed hangs up.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(handler, **shared):
    """A server of this process; what its requests share are attributes of a class."""
    served = Quiet(("127.0.0.1", 0), type(handler.__name__, (handler,), shared))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{served.server_address[1]}"
    finally:
        served.shutdown()
        served.server_close()


def policy_of_template(secret):
    """The sweep's own policy, with this test's names for what CloudFormation makes."""
    stack = Stack(
        json.loads(translated("code", "bootstrap.zip")),
        BucketName=BUCKET,
        Prefix="images",
        DatabaseSecretArn=secret,
    )
    (policy,) = stack.resources["SweeperRole"]["Properties"]["Policies"]
    text = json.dumps(policy["PolicyDocument"]).replace("<LedgerBucket.Arn>", f"arn:aws:s3:::{LEDGER}")
    return json.loads(re.sub(r"<(\w+)\.Arn>", r"arn:aws:made:::\1", text))


def without(document, sid, action):
    """The policy with one action of one statement taken away, which must have been there."""
    document = json.loads(json.dumps(document))
    (statement,) = [s for s in document["Statement"] if s.get("Sid") == sid]
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    assert action in actions, f"{sid} does not allow {action}"
    statement["Action"] = [a for a in actions if a != action] or ["none:None"]
    return document


class Trial:
    def __init__(self, bootstrap, database, moto):
        self.bootstrap, self.database, self.moto = bootstrap, database, moto
        s3 = self.s3 = moto.client("s3")
        for bucket in (BUCKET, LEDGER):
            s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        database.sql("INSERT INTO images VALUES (%s)", NAMED)
        for key in (NAMED, "images/orphan.png", "other/orphan.png"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
        secret = moto.client("secretsmanager").create_secret(Name="pictures", SecretString=database.secret())
        self.document = policy_of_template(secret["ARN"])
        self.secret = secret["ARN"]
        moto.enforce()

    def keys(self):
        return [found["Key"] for found in self.s3.list_objects_v2(Bucket=BUCKET)["Contents"]]

    def run(self, document, event=None, **variables):
        """One run with these permissions: its kind of answer, the answer, and the batches."""
        self.moto.grant(document)
        batches, events, answers = [], queue.Queue(), queue.Queue()
        events.put(json.dumps(event or {}).encode())
        shared = {"moto": self.moto, "policy": Policy(document), "batches": batches}
        with serving(Proxy, **shared) as proxy, serving(Runtime, events=events, answers=answers) as runtime:
            credentials = self.moto.credentials
            environment = clean_environment(
                AWS_ACCESS_KEY_ID=credentials["AccessKeyId"],
                AWS_SECRET_ACCESS_KEY=credentials["SecretAccessKey"],
                AWS_SESSION_TOKEN=credentials["SessionToken"],
                AWS_ENDPOINT_URL=f"http://{proxy}",
                AWS_LAMBDA_RUNTIME_API=runtime,
                AWS_LAMBDA_FUNCTION_NAME="sweeper",
                AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
                AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
                AWS_LAMBDA_LOG_GROUP_NAME="sweeper",
                AWS_LAMBDA_LOG_STREAM_NAME="1",
                DATABASE_SECRET_ARN=self.secret,
                SWEEPER_BUCKET=BUCKET,
                SWEEPER_PREFIX="images",
                SWEEPER_REPORT=f"s3://{LEDGER}/ledger",
                SWEEPER_MAX_ORPHAN_PERCENT="90",
                SWEEPER_MIN_AGE="0s",
                SWEEPER_ALLOW_SHORT_MIN_AGE="true",
            ) | variables
            process = subprocess.Popen([self.bootstrap], env=environment, stdout=subprocess.DEVNULL)
            try:
                kind, answer = answers.get(timeout=PATIENCE)
            finally:
                process.kill()
                process.wait()
                events.put(b"")
        return kind, answer, batches

    def with_all(self):
        """With all of them it works; and it is asked until the orphan is old enough."""

        def planned():
            kind, answer, batches = self.run(self.document, {"dry_run": True})
            assert kind == "response" and not batches, answer
            return answer["orphans"] == 1

        wait_for("an orphan", planned)

    def sweeps(self, document):
        kind, answer, batches = self.run(document)
        assert (kind, answer.get("status"), answer.get("deleted")) == ("response", "completed", 1), answer
        assert batches
        assert self.keys() == [NAMED, "other/orphan.png"]
        self.s3.put_object(Bucket=BUCKET, Key="images/orphan.png", Body=b"again")
        self.with_all()

    def fails(self, document, kind, code):
        said, answer, _ = self.run(document)
        assert said == "error" and answer["errorType"] == kind, answer
        assert code in answer["errorMessage"], answer
        assert self.keys() == [NAMED, "images/orphan.png", "other/orphan.png"]


def denials(document):
    """What the policy document itself says of deletions, by every way of asking."""
    policy = Policy(document)
    here = {"aws:ResourceAccount": "123456789012"}
    inside, outside = "arn:aws:s3:::pictures/images/a.png", "arn:aws:s3:::pictures/other/a.png"
    conditional = here | {"s3:if-match": '"0"'}
    assert policy.allows("s3:DeleteObject", inside, conditional)
    assert not policy.allows("s3:DeleteObject", inside, here), "an unconditional deletion"
    assert not policy.allows("s3:DeleteObject", outside, conditional), "another folder"
    assert not policy.allows("s3:DeleteObject", inside, conditional | {"aws:ResourceAccount": "2"}), "another account"
    assert not policy.allows("s3:DeleteObjectVersion", inside, conditional), "a version"
    # Whatever else is attached to the role.
    more = Policy({"Statement": [*document["Statement"], {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    assert not more.allows("s3:DeleteObject", inside, here), "an unconditional deletion, allowed elsewhere"
    assert not more.allows("s3:DeleteObjectVersion", inside, conditional), "a version, allowed elsewhere"
    assert not more.allows("s3:PutBucketVersioning", "arn:aws:s3:::pictures", here)
    assert more.allows("s3:DeleteObject", outside, conditional)


def main():
    bootstrap = Path(sys.argv[1]).resolve()
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    environment = clean_environment(INITIAL_NO_AUTH_ACTION_COUNT="1000000")
    endpoint = f"http://127.0.0.1:{port}"
    with postgres() as database, server(command, environment, f"{endpoint}/moto-api/data.json"):
        trial = Trial(bootstrap, database, Moto(endpoint))
        denials(trial.document)
        trial.with_all()
        trial.sweeps(trial.document)
        print("with all of its permissions: swept", flush=True)
        for sid, action, kind, code in TAKEN_AWAY:
            document = without(trial.document, sid, action)
            if kind is None:
                trial.sweeps(document)
            else:
                trial.fails(document, kind, code)
            print(f"without {action} of {sid}: {kind or 'swept'}", flush=True)


if __name__ == "__main__":
    main()
