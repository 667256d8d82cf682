#!/usr/bin/env python3
"""A client of parley.v1.

    chat.py 127.0.0.1:3000,127.0.0.1:3001 create ann
    chat.py 127.0.0.1:3000,127.0.0.1:3001 send ann < lines
    chat.py 127.0.0.1:3000,127.0.0.1:3001 watch ann [COUNT]

Any node serves any call; when one is lost, the next in the list is asked. Each
line is sent once, and each message is shown once, whatever nodes are lost
meanwhile. docs/grpc.md says how to make the stubs.
"""
import sys
import time

import grpc
from parley.v1 import chat_pb2 as pb
from parley.v1 import chat_pb2_grpc as stubs

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)


def reason(err):
    """The stable name of what went wrong, such as NO_SUCH_USER."""
    trailers = dict(err.trailing_metadata() or ())
    return trailers.get("parley-reason", err.code().name)


class Cluster:
    """The nodes of a cluster, one of them in use."""

    def __init__(self, servers):
        self.servers = servers
        self.use(0)

    def use(self, n):
        self.n = n % len(self.servers)
        self.channel = grpc.insecure_channel(self.servers[self.n])
        self.chat = stubs.ChatServiceStub(self.channel)

    def next(self):
        self.channel.close()
        time.sleep(0.05)
        self.use(self.n + 1)

    def call(self, method, request):
        """Calls until there is an answer. Repeating the request must be harmless."""
        while True:
            try:
                return getattr(self.chat, method)(request, timeout=5)
            except grpc.RpcError as err:
                if err.code() not in AGAIN:
                    raise
                self.next()


def create(cluster, name):
    session = cluster.call("OpenSession", pb.OpenSessionRequest()).session_id
    once = pb.Once(session_id=session, sequence=1)
    cluster.call("CreateUser", pb.CreateUserRequest(name=name, once=once))
    cluster.call("CloseSession", pb.CloseSessionRequest(session_id=session))


def send(cluster, name, lines):
    session = cluster.call("OpenSession", pb.OpenSessionRequest()).session_id
    for n, line in enumerate(lines, start=1):
        # The number makes a repetition recognisable: it takes effect once.
        once = pb.Once(session_id=session, sequence=n, answered=n - 1)
        body = line.rstrip("\n")
        answer = cluster.call("Send", pb.SendRequest(to=name, body=body, once=once))
        print("sent", answer.message_id, flush=True)
    cluster.call("CloseSession", pb.CloseSessionRequest(session_id=session))


def watch(cluster, name, count):
    seen = pb.Cursor()  # the resume token: the position of the last message shown
    while count != 0:
        try:
            for push in cluster.chat.Watch(pb.WatchRequest(user=name, after=seen)):
                message = push.message
                print(message.cursor.message_id, message.body, flush=True)
                seen = message.cursor
                cluster.call("Ack", pb.AckRequest(user=name, up_to=seen))
                count -= 1
                if count == 0:
                    return
        except grpc.RpcError as err:
            if err.code() not in AGAIN:
                raise
            cluster.next()


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    cluster = Cluster(sys.argv[1].split(","))
    command, name = sys.argv[2], sys.argv[3]
    try:
        if command == "create":
            create(cluster, name)
        elif command == "send":
            send(cluster, name, sys.stdin)
        elif command == "watch":
            watch(cluster, name, int(sys.argv[4]) if len(sys.argv) > 4 else -1)
        else:
            sys.exit(__doc__)
    except grpc.RpcError as err:
        sys.exit(f"{reason(err)}: {err.details()}")


if __name__ == "__main__":
    main()
