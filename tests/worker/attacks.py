"""What a stranger's function tries: each way a line of Python that fails where it is walled off.

`WAYS` go into one function, which answers `open` for a way that is, and the error's name for one
that is not.  Some would do harm outside of a sandbox: only those of `HARMLESS` may be tried there.

Run as a program (`python -m tests.worker.attacks UID DIRECTORY`) it is a worker of another user's,
in whose cells it tries them all; it prints what came of each as JSON.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.worker.fake_node import open_worker
from worker.protocol import Isolation
from worker.sandbox import kernel

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
WAYS: dict[str, str] = {
    # Sockets, of every kind.
    "tcp": "socket.create_connection(('127.0.0.1', facts['tcp']), 2)",
    "udp": "socket.socket(2, 2).sendto(b'x', ('127.0.0.1', facts['udp']))",
    "abstract socket": "socket.socket(1).connect(facts['abstract'])",
    "path socket": "socket.socket(1).connect(facts['path'])",
    "netlink": "socket.socket(16, 3)",
    "packet": "socket.socket(17, 3)",
    "kernel crypto": "socket.socket(38, 5)",
    "virtual machine socket": "socket.socket(40, 1)",
    "tipc pair": "socket.socketpair(30)",
    "out-of-band data": "socket.socketpair()[0].send(b'x', 1)",
    # Files of the machine.
    "key": "open(facts['secret'])",
    "key by link": "os.symlink(facts['secret'], 'link'); open('link')",
    "key by working directory": "os.chdir(os.path.dirname(facts['secret']))",
    "existence of key": "os.stat(facts['secret'])",
    "users": "open('/etc/passwd')",
    "root directory": "os.listdir('/')",
    "temporary files": "open('/tmp/left-by-attack', 'w')",
    "own code": "open(sys.modules['edge'].__file__, 'a')",
    "library": "open(os.path.dirname(os.__file__) + '/attack.py', 'w')",
    "memory device": "open('/dev/mem')",
    "kernel settings": "open('/proc/sys/kernel/hostname', 'w')",
    "sysfs": "os.listdir('/sys/kernel')",
    "file by handle": "call(304, -100, 0, 0)",
    "device node": "os.mknod('node', 0o060644, os.makedev(254, 0))",
    # Other jobs.
    "others' scratch": "os.listdir(facts['scratch'])",
    "others' directories": "os.listdir('/jobs')",
    "others' directory": "os.listdir('/jobs/1')",
    "cache of blobs": "open(facts['blob'])",
    "blob of another job": "open('/given/' + os.path.basename(facts['blob']))",
    "writing what was given": "open('/given/x', 'w')",
    "rights of what was given": "os.chmod('/given', 0o777)",
    # Other processes.
    "list of processes": "os.listdir('/proc')",
    "environment of the worker": "open(f\"/proc/{facts['pid']}/environ\")",
    "memory of the worker": "open(f\"/proc/{facts['pid']}/mem\", 'r+b')",
    "own process through /proc": "open('/proc/self/maps')",
    "ptrace": "call(101, 0x4206, facts['pid'], 0, 0)",
    "memory of another process": "call(310, facts['pid'], 0, 0, 0, 0, 0)",
    "signal to the worker": "os.kill(facts['pid'], 0)",
    "descriptor of a process": "os.pidfd_open(1)",
    "others' limits": "resource.prlimit(facts['pid'], 7)",
    # Namespaces, mounts, identity.
    "user namespace": "call(272, 0x10000000)",
    "network namespace": "call(272, 0x40000000)",
    "namespace by clone": "call(56, 0x10000000 | 17, 0, 0, 0, 0) == 0 and os._exit(0)",
    "namespace by clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "mount": "call(165, b'x', b'/scratch', b'tmpfs', 0, b'')",
    "unmount": "call(166, b'/given', 2)",
    "new root": "os.chroot('/scratch')",
    "being root": "os.setuid(0)",
    "real-time priority": "os.sched_setscheduler(0, 1, os.sched_param(1))",
    "higher priority": "os.nice(-5)",
    "host name": "socket.sethostname('attack')",
    # The wilder corners of the kernel.
    "io_uring": "call(425, 8, ctypes.create_string_buffer(120))",
    "bpf": "call(321, 0, ctypes.create_string_buffer(120), 120)",
    "keys": "call(250, 0, -3, 1)",
    "new key": "call(248, b'user', b'a', b'b', 1, -3)",
    "performance events": "call(298, ctypes.create_string_buffer(120), 0, -1, -1, 0)",
    "page faults": "call(323, 1)",
    "modules": "call(313, 0, b'', 0)",
    "clock": "time.clock_settime(0, 0)",
    "calls of another kind": "call(0x40000000 | 39)",
    "calls of tomorrow": "call(470)",
    "shared memory": "call(29, 0, 4096, 0o1600)",
    "memory file": "os.memfd_create('x')",
    "message queue": "call(68, 0, 0o1600)",
    # Programs, and staying alive.
    "shell": "os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "spawned shell": "os.posix_spawn('/bin/sh', ['sh', '-c', 'true'], {})",
    "subprocess": "__import__('subprocess').run(['true'], check=True)",
    "own program": "open('p', 'w').write('#!/bin/sh'); os.chmod('p', 0o755); os.execv('p', ['p'])",
    "outliving the worker": "call(157, 1, 0, 0, 0, 0)",
}
HARMLESS = (
    "tcp",
    "udp",
    "abstract socket",
    "path socket",
    "key",
    "users",
    "list of processes",
    "environment of the worker",
    "cache of blobs",
    "others' scratch",
    "signal to the worker",
    "shell",
    "subprocess",
    "memory file",
    "outliving the worker",
)
"""Ways that do no harm where they are open."""
FUNCTION = (
    LIBC
    + """
import errno, os, resource, socket, sys, time
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
def attempt(way, facts):
    # In a process of its own: a way that is open may end it or change it.
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            exec(way, globals() | {"facts": facts})
            os.write(write, b"open")
        except OSError as error:
            os.write(write, errno.errorcode.get(error.errno, "OSError").encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    found = os.read(read, 4096).decode() or "open"
    os.close(read)
    os.wait()
    return found
def handler(given):
    return {name: attempt(way, given["facts"]) for name, way in given["ways"].items()}
"""
)


@contextmanager
def prey(directory: Path) -> Iterator[dict[str, Any]]:
    """Be what an attack wants: sockets that listen, a secret, a process; yield where it all is."""
    secret = directory / "node.key"
    secret.write_text("secret")
    secret.chmod(0o644)  # that others may read it is no help
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        name = f"attack-{os.getpid()}"
        path = f"/tmp/{name}"
        with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
            abstract.bind(f"\0{name}")
            named.bind(path)
            os.chmod(path, 0o777)
            abstract.listen()
            named.listen()
            try:
                yield {
                    "tcp": tcp.getsockname()[1],
                    "udp": udp.getsockname()[1],
                    "abstract": f"\0{name}",
                    "path": path,
                    "secret": str(secret),
                    "pid": os.getpid(),
                }
            finally:
                os.unlink(path)


async def attack(directory: Path, level: Isolation, ways: dict[str, str]) -> dict[str, str]:
    """Return what came of each way, tried by a function at `level` while another job runs."""
    other = "import edge, os\ndef handler(blob):\n    with blob.open() as file:\n        where ="
    other += " [os.getcwd(), file.name]\n        edge.log('\\n'.join(where))\n"
    other += "        return edge.kv('gate').get('open')\n"
    async with open_worker(directory, slots=2, level=level) as (node, _):
        with prey(directory) as facts:
            node.blobs[7] = (b"another job's data", "text/plain")
            node.unanswered = []
            messages = node.lease(other, {"blob": "7"})
            neighbour = node.number
            await node.say(*messages)
            await node.until(lambda: any(call.operation == "kv.open" for call in node.calls))
            places = sorted((directory / "scratch").glob("*/*/"))
            (blob,) = (directory / "blobs").iterdir()
            facts |= {"scratch": str(places[0]), "blob": str(blob)}
            done = await node.run(FUNCTION, {"facts": facts, "ways": ways})
            assert done.error_code is None, done
            await node.finished(neighbour)
            again = await node.run(FUNCTION, {"facts": facts, "ways": {}})
            assert again.error_code is None, again
        found: dict[str, str] = json.loads(done.payload)
        return found


def become(user: int) -> None:
    """Become another user, who can still reach this interpreter; see `kernel` for the calls."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # Whatever no other may pass through is covered by a directory that holds only what is needed.
    shut = [place for place in Path(sys.base_prefix).parents if not place.stat().st_mode & 0o001]
    if shut:
        python = os.open(sys.base_prefix, os.O_PATH)
        kernel.mount("none", str(shut[-1]), "tmpfs", options="mode=0755")
        os.makedirs(sys.base_prefix)
        bind = kernel.MS_BIND | kernel.MS_REC
        kernel.mount(f"/proc/self/fd/{python}", sys.base_prefix, flags=bind)
        os.close(python)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


if __name__ == "__main__":
    become(int(sys.argv[1]))
    print(json.dumps(trio.run(attack, Path(sys.argv[2]), "sandbox", WAYS)))
