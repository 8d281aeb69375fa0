"""A client of a d-engine cluster in Python, from the .proto files alone.

It finds the leader and follows it. Writes carry the numbers of a session, so that one which was sent again, because its answer
never came, is applied once. It does one thing at a time; give each thread a client of its own.
"""

import pathlib
import sys
import time

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
sys.path.insert(0, str(PROTO))
kv, kv_calls = grpc.protos_and_services("d_engine/v1/kv.proto")
lease, lease_calls = grpc.protos_and_services("d_engine/v1/lease.proto")
session, session_calls = grpc.protos_and_services("d_engine/v1/session.proto")
watch, watch_calls = grpc.protos_and_services("d_engine/v1/watch.proto")

# Another attempt may be answered. With DEADLINE_EXCEEDED, UNKNOWN and CANCELLED the request may have been applied.
AGAIN = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
STUBS = {
    "kv": kv_calls.KvStub,
    "lease": lease_calls.LeaseStub,
    "session": session_calls.SessionStub,
    "watch": watch_calls.WatchStub,
}


class Client:
    """endpoints: a list of "host:port"; timeout: seconds for one call with all its attempts."""

    def __init__(self, endpoints, timeout=20.0):
        self.endpoints = list(endpoints)
        self.timeout = timeout
        self.channels = {}
        self.preferred = self.endpoints[0]
        self.session_id = None
        self.sequence = 0

    def put(self, key, value, lease_id=None):
        request = kv.PutRequest(key=key, value=value)
        if lease_id is not None:
            request.lease = lease_id
        return self._write("kv", "Put", request)

    def get(self, key):
        """The record of a key, or None: linearizable."""
        answer = self._call("kv", "Get", kv.GetRequest(key=key))
        return answer.record if answer.HasField("record") else None

    def compare_and_swap(self, key, expected, value):
        """None as `expected`: the key must not exist; None as `value`: it is removed."""
        return self._write("kv", "CompareAndSwap", kv.CompareAndSwapRequest(key=key, expected=expected, value=value))

    def txn(self, compares, then, otherwise=()):
        """Lists of kv.Compare and kv.TxnRequest.Operation."""
        return self._write("kv", "Txn", kv.TxnRequest(compares=compares, then=then, otherwise=otherwise))

    def grant_lease(self, ttl_ms):
        return self._write("lease", "Grant", lease.LeaseGrantRequest(ttl_ms=ttl_ms))

    def keep_alive(self, lease_id):
        """Milliseconds that the lease lasts from now on; 0: it has ended."""
        return self._call("lease", "KeepAlive", lease.LeaseKeepAliveRequest(ids=[lease_id])).ttls_ms[0]

    def revoke_lease(self, lease_id):
        return self._write("lease", "Revoke", lease.LeaseRevokeRequest(id=lease_id))

    def watch(self, start, end, from_revision):
        """Yields (revision, change) of start <= key < end from a revision on, each once, across nodes that fail.

        LookupError: no node that can be reached keeps the next changes any more.
        """
        place, told = from_revision, 0
        # Nodes that do not have them, with the first revision that they have, or that cannot be reached: None.
        without = {}
        while True:
            address = self.preferred
            span = kv.KeySpan(start=start, end=end)
            try:
                skip = told
                for event in self._stub("watch", address).Open(watch.WatchRequest(span=span, from_revision=place)):
                    kind = event.WhichOneof("event")
                    if kind == "created":
                        without.clear()
                    if kind == "ended":
                        # A node that has just started remembers nothing from before; the others may.
                        if event.ended.HasField("compacted"):
                            without[address] = event.ended.compacted.first_revision
                        break
                    if kind != "changes" or event.changes.revision < place:
                        continue
                    if event.changes.revision > place:
                        place, told, skip = event.changes.revision, 0, 0
                    for change in event.changes.changes:
                        if skip > 0:
                            skip -= 1
                            continue
                        told += 1
                        yield place, change
                    if not event.changes.more:
                        place, told, skip = place + 1, 0, 0
            except grpc.RpcError as error:
                if error.code() not in AGAIN:
                    raise
                without[address] = None
            kept_from = [revision for revision in without.values() if revision is not None]
            if kept_from and without.keys() >= set(self.endpoints):
                raise LookupError(f"changes before {min(kept_from)} are not kept any more")
            self._leave(address)
            time.sleep(0.05)

    def _write(self, service, method, request):
        """A write of the session: repeated until it is answered, applied once."""
        if self.session_id is None:
            self.session_id = self._call("session", "Open", session.SessionOpenRequest()).session
        self.sequence += 1
        request.session.session = self.session_id
        request.session.sequence = self.sequence
        # One at a time: all answers before this one are there.
        request.session.lowest = self.sequence
        return self._call(service, method, request)

    def _call(self, service, method, request):
        deadline = time.monotonic() + self.timeout
        while True:
            address = self.preferred
            left = deadline - time.monotonic()
            try:
                return getattr(self._stub(service, address), method)(request, timeout=max(0.1, left / 4))
            except grpc.RpcError as error:
                if error.code() not in AGAIN or time.monotonic() >= deadline:
                    raise
                leader = dict(error.trailing_metadata() or ()).get("d-engine-leader")
                if leader and leader != address:
                    self.preferred = leader
                    continue
                self._leave(address)
                time.sleep(0.05)

    def _leave(self, address):
        """The next node, if this one is still the preferred one."""
        if self.preferred == address:
            others = [other for other in self.endpoints if other != address] or self.endpoints
            place = self.endpoints.index(address) if address in self.endpoints else 0
            self.preferred = others[place % len(others)]

    def _stub(self, service, address):
        channel = self.channels.get(address)
        if channel is None:
            channel = self.channels[address] = grpc.insecure_channel(
                address, options=[("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
            )
        return STUBS[service](channel)
