"""Static executables for tests, made by the machine's C compiler, without any library."""

import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import trio

from tests.worker.attacks import become
from tests.worker.fake_node import open_worker

PRELUDE = r"""
typedef long word;
#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, POLL_PAUSE = 34, SOCKET = 41, FORK = 57, EXECVE = 59,
       EXIT = 231, KILL = 62, FCNTL = 72, OPENAT = 257, MMAP = 9, EXECVEAT = 322, MEMFD = 319,
       MKDIRAT = 258, RT_SIGACTION = 13, SETSID = 112, GETPPID = 110, PTRACE = 101, MOUNT = 165 };
static word call(word n, word a, word b, word c, word d, word e, word f) {
    register word r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return n;
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall begin\n");
static word forked(void) { return call(FORK, 0, 0, 0, 0, 0, 0); }
static void halt(void) { for (;;) call(POLL_PAUSE, 0, 0, 0, 0, 0, 0); }
#endif
static word length(const char *text) { word n = 0; while (text[n]) n++; return n; }
static void say(int to, const char *text) { call(WRITE, to, (word)text, length(text), 0, 0, 0); }
static void leave(int status) { call(EXIT, status, 0, 0, 0, 0, 0); for (;;) ; }
static void number(int to, word value) {
    char text[24]; int at = 23; int below = value < 0; text[at] = 0;
    if (below) value = -value;
    do text[--at] = '0' + value % 10; while (value /= 10);
    if (below) text[--at] = '-';
    say(to, text + at);
}
static char **environment;
static const char *variable(const char *name) {
    for (char **one = environment; *one; one++) {
        word n = length(name), at = 0;
        while (at < n && (*one)[at] == name[at]) at++;
        if (at == n && (*one)[n] == '=') return *one + n + 1;
    }
    return "";
}
static char buffer[65536];
static void copy(int from) {
    word n;
    while ((n = call(READ, from, (word)buffer, sizeof buffer, 0, 0, 0)) > 0)
        call(WRITE, 1, (word)buffer, n, 0, 0, 0);
}
static void run(void);
void begin(word *stack) { environment = (char **)(stack + stack[0] + 2); run(); leave(0); }
"""


@cache
def executable(body: str, *options: str) -> bytes:
    """Return a static program whose function `run` has this body; skips without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("a C compiler on x86-64 makes the programs of these tests")
    with tempfile.TemporaryDirectory() as made:
        source, target = Path(made, "program.c"), Path(made, "program")
        source.write_text(f"{PRELUDE}\nstatic void run(void) {{ {body} }}\n")
        command = [compiler, "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"]
        subprocess.run(
            [*command, "-O1", "-w", *options, "-o", target, source],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return target.read_bytes()


ECHO = "copy(0);"
SILENT = ""


async def echo(directory: Path, code: bytes) -> str:
    """Run an executable at level `sandbox`; return its result, or how it failed."""
    async with open_worker(directory, level="sandbox") as (node, _):
        finished = await node.run(code, ["echoed"], runtime="exec")
        return finished.payload.decode()


if __name__ == "__main__":
    made = executable(ECHO)
    become(int(sys.argv[1]))
    print(trio.run(echo, Path(sys.argv[2]), made))
