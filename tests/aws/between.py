"""A server between clients and ministack that passes everything on, and lets a test have a
hand in it: before a request arrives, or before its answer does."""

import re
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stage import PATIENCE, Cloud, transformed


class Between(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud = None

    @staticmethod
    def before(_command, _path, body):
        """The body that is passed on."""
        return body

    @staticmethod
    def after(_command, _path, _body):
        """Whether the answer is passed on."""
        return True

    def log_message(self, *_):
        pass

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = self.before(self.command, self.path, body)
        request = urllib.request.Request(self.cloud.endpoint + self.path, body or None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "content-length", "accept-encoding", "transfer-encoding"):
                request.add_header(name, value)
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            text = answer.read()
            if not self.after(self.command, self.path, body):
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            # The answer to a HEAD has a length and no body.
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A function that is killed hangs up.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def between(cloud, **hands):
    """The same cloud, with these hands in it."""
    hands = {name: staticmethod(hand) for name, hand in hands.items()}
    served = Quiet(("127.0.0.1", 0), type("Between", (Between,), hands | {"cloud": cloud}))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield Cloud(f"http://127.0.0.1:{served.server_address[1]}", cloud.process)
    finally:
        served.shutdown()
        served.server_close()


def transforming(cloud):
    """The same cloud with CloudFormation's own part of SAM, of which ministack has none: a
    template that asks for the transformation is translated on its way in."""

    def before(_command, _path, body):
        if b"Action=CreateChangeSet" not in body:
            return body
        asked = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        if "TemplateURL" not in asked:
            # The client's own bucket, which needs no transformation.
            return body
        bucket, key = re.fullmatch(r"/([^/]+)/(.+)", urllib.parse.urlsplit(asked["TemplateURL"]).path).groups()
        s3 = cloud.client("s3")
        template = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        if "AWS::Serverless-2016-10-31" in template:
            # Laid beside it: what is sent inline may be no longer than 51,200 characters.
            s3.put_object(Bucket=bucket, Key=f"{key}.transformed", Body=transformed(template))
            asked["TemplateURL"] += ".transformed"
        return urllib.parse.urlencode(asked).encode()

    return between(cloud, before=before)
