"""Runs a program in a process that a test forks, for programs that start others.

with listening() as variables:     in the test
python tests/helpers/forked_program.py PROGRAM ARGUMENTS     in place of python PROGRAM ARGUMENTS, with these variables
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Listener

from limits import LIMIT


@contextmanager
def listening() -> Iterator[dict[str, str]]:
    """Runs the programs that are asked for, one after another."""
    from fork_server import ForkedCommand, ForkedProcesses

    def serve() -> None:
        while True:
            with listener.accept() as connection:
                request = connection.recv()
                if request is None:
                    return
                process = ForkedProcesses(ForkedCommand(request[0]), request[1])
                try:
                    output = process.communicate(timeout=LIMIT)
                    connection.send((*output, process.returncode))
                finally:
                    process.kill()

    with Listener(("127.0.0.1", 0)) as listener:
        port = str(listener.address[1])
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield {"FORKED_PROGRAMS_PORT": port}
        with Client(listener.address) as connection:
            connection.send(None)
        thread.join(timeout=LIMIT)


if __name__ == "__main__":
    with Client(("127.0.0.1", int(os.environ["FORKED_PROGRAMS_PORT"]))) as connection:
        connection.send((sys.argv[1:], dict(os.environ)))
        out, err, status = connection.recv()
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(status)
