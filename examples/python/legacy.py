#!/usr/bin/env python3
"""The exercise's chat client: passes on the lines that a person types.

    legacy.py 127.0.0.1:3000

Besides the node's commands (create, connect, list, send, delete) it knows
"listen NAME", which shows what waits for a user. docs/grpc.md says how to make
the stubs. Nothing here knows of clusters: one address, and the node does the rest.
"""
import json
import sys

import grpc
from helloworld import helloworld_pb2 as pb
from helloworld import helloworld_pb2_grpc as stubs

TIMEOUT = 15  # seconds; a change of leader takes less than one


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with grpc.insecure_channel(sys.argv[1]) as channel:
        chat = stubs.ChatStub(channel)
        for line in sys.stdin:
            line = line.rstrip("\n")
            word, _, rest = line.partition(" ")
            try:
                if word == "listen":
                    answer = chat.listen(pb.User(name=rest), timeout=TIMEOUT)
                else:
                    answer = chat.try_command(pb.Command(command=line), timeout=TIMEOUT)
                out = {"message": answer.message, "name": answer.name}
            except grpc.RpcError as err:
                out = {"error": err.code().name, "details": err.details()}
            print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
