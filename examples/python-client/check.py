"""Runs the client against three nodes of its own, whose leader it kills with kill -9 in the middle, and checks itself.

Usage: check.py PATH_OF_D_ENGINE
"""

import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from client import Client, kv

WRITES = 200


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        # The directory must be empty: nothing but a cluster may be in it.
        up = subprocess.Popen([program, "up", "--data", f"{directory}/cluster", "--port", "19081"], stdout=subprocess.PIPE, text=True)
        try:
            for line in up.stdout:
                found = re.search(r"D_ENGINE_ENDPOINTS=(\S+)", line)
                if found:
                    check(program, found[1].split(","))
                    break
            else:
                sys.exit("the cluster did not come up")
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=30)


def check(program, endpoints):
    client = Client(endpoints)
    began = client.put(b"k", b"v").at.revision
    assert client.get(b"k").value == b"v"
    assert client.compare_and_swap(b"k", b"v", b"w").succeeded
    assert client.compare_and_swap(b"k", b"v", b"x").current == b"w"
    assert client.get(b"absent") is None

    # Only while the key is as it was read.
    revision = client.get(b"k").mod_revision
    unchanged = [kv.Compare(key=b"k", mod_revision=revision)]
    operation = kv.TxnRequest.Operation
    then = [operation(put=kv.PutRequest(key=b"k", value=b"x")), operation(put=kv.PutRequest(key=b"l", value=b"y"))]
    assert client.txn(unchanged, then).succeeded
    assert not client.txn(unchanged, then).succeeded

    held = client.grant_lease(60_000).id
    client.put(b"leased", b"v", lease_id=held)
    assert client.keep_alive(held) == 60_000

    changes = Client(endpoints).watch(b"n", b"o", began)
    for number in range(WRITES):
        client.put(b"n", str(number).encode())
        if number == WRITES // 2:
            kill_leader(program, endpoints)
    for number in range(WRITES):
        _, change = next(changes)
        assert change.put.record.value == str(number).encode(), (number, change)
    record = client.get(b"n")
    assert record.version == WRITES, f"{WRITES} writes were applied {record.version} times"

    client.revoke_lease(held)
    assert client.get(b"leased") is None
    assert client.keep_alive(held) == 0
    print(f"{WRITES} writes across kill -9 of the leader: each applied once, each told once and in order")


def kill_leader(program, endpoints):
    for endpoint in endpoints:
        answer = subprocess.run([program, "status", "-o", "json", "--endpoints", endpoint], capture_output=True, text=True)
        for node in json.loads(answer.stdout)["nodes"]:
            if node.get("role") == "leader":
                subprocess.run(["kill", "-KILL", str(node["pid"])], check=True)
                return
    sys.exit("no node leads")


if __name__ == "__main__":
    main()
