"""Measures the function as it is shipped: its cold start, its memory and its temporary disk.

    python tests/aws/measured.py path/to/bootstrap [keys ...]

The bucket and the database are those of the bench (`cargo bench --bench sweep`), which is
built if it is not; a bench that was built already is taken from $SWEEPER_BENCH.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from between import between
from permissions import Runtime, serving
from stage import ROOT, Cloud, clean_environment

# A run of a million objects on a busy machine.
PATIENCE = 900


@contextmanager
def world(keys, latency):
    """The bench's bucket and database; the environment that reaches them."""
    bench = os.environ.get("SWEEPER_BENCH")
    command = [bench] if bench else ["cargo", "bench", "--bench", "sweep", "--locked", "--"]
    arguments = ["--serve", "--keys", str(keys), "--latency", str(latency)]
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    environment = {}
    try:
        for line in process.stdout:
            if line.startswith("# bucket "):
                environment["SWEEPER_BUCKET"] = line.split()[2].rstrip(";")
                break
            if line.startswith("export "):
                name, value = line.removeprefix("export ").strip().split("=", 1)
                environment[name] = value.strip("'")
        assert environment, "the bench serves nothing"
        yield environment
    finally:
        process.communicate("\n", timeout=60)


@contextmanager
def function(bootstrap, events, answers, **variables):
    with serving(Runtime, events=events, answers=answers) as runtime:
        environment = clean_environment(
            AWS_LAMBDA_RUNTIME_API=runtime,
            AWS_LAMBDA_FUNCTION_NAME="sweeper",
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
            AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
            AWS_LAMBDA_LOG_GROUP_NAME="sweeper",
            AWS_LAMBDA_LOG_STREAM_NAME="1",
        ) | variables
        began = time.monotonic()
        process = subprocess.Popen([bootstrap], env=environment, stdout=subprocess.DEVNULL)
        try:
            yield process, began
        finally:
            process.kill()
            process.wait()
            events.put(b"")


def cold_start(bootstrap, environment, folder):
    """From the start of the process to its first LIST, in milliseconds."""
    listed, events, answers = [], queue.Queue(), queue.Queue()

    def before(_command, path, body):
        if "list-type=2" in path:
            listed.append(time.monotonic())
        return body

    endpoint = environment["AWS_ENDPOINT_URL"] if "AWS_ENDPOINT_URL" in environment else environment["AWS_ENDPOINT_URL_S3"]
    with between(Cloud(endpoint, None), before=before) as watched:
        variables = environment | {"AWS_ENDPOINT_URL_S3": watched.endpoint, "SWEEPER_REPORT": folder}
        events.put(b'{"dry_run":true}')
        with function(bootstrap, events, answers, **variables) as (_, began):
            said = answers.get(timeout=PATIENCE)
    assert said[0] == "response", said
    return (min(listed) - began) * 1000


def peak(bootstrap, environment, event, concurrency):
    """Peak memory and temporary disk of one run, in MiB, and how long it took in seconds."""
    events, answers = queue.Queue(), queue.Queue()
    # Where what is taken can be seen although the files have no names.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk, tempfile.TemporaryDirectory() as ledger:
        variables = environment | {
            "TMPDIR": disk,
            "SWEEPER_REPORT": ledger,
            "SWEEPER_CONCURRENCY": str(concurrency),
        }

        def used():
            about = os.statvfs(disk)
            return (about.f_blocks - about.f_bfree) * about.f_frsize

        first = most = used()
        with function(bootstrap, events, answers, **variables) as (process, _):
            began = time.monotonic()
            events.put(json.dumps(event).encode())
            while answers.empty():
                assert process.poll() is None, "the function ended"
                assert time.monotonic() - began < PATIENCE
                most = max(most, used())
                time.sleep(0.01)
            took = time.monotonic() - began
            kind, answer = answers.get()
            assert kind == "response" and answer["status"] in ("completed", "dry_run"), answer
            status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resident, (most - first) / 2**20, took, answer


def main():
    bootstrap = Path(sys.argv[1]).resolve()
    sizes = [int(size) for size in sys.argv[2:]] or [300_000, 1_000_000]
    with world(2_000, 0) as environment, tempfile.TemporaryDirectory() as folder:
        times = sorted(cold_start(bootstrap, environment, folder) for _ in range(21))
    print(f"start to first LIST: median {median(times):.0f} ms, {times[0]:.0f} to {times[-1]:.0f}", flush=True)
    # What Lambda's sizes choose by their processors: 2 up to 3008 MB, 3 up to 5307, then more.
    for keys in sizes:
        for concurrency in (8, 32, 48, 64):
            for event in ({"dry_run": True}, {}):
                # What was swept is gone, so each has a bucket of its own.
                with world(keys, 50) as environment:
                    memory, disk, took, answer = peak(bootstrap, environment, event, concurrency)
                what = "plan" if event else f"sweep of {answer['deleted']}"
                print(
                    f"{keys} objects, {concurrency} at once, {what}: {memory:.0f} MiB of memory, {disk:.0f} MiB of disk, {took:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
