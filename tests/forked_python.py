"""A Python that starts in milliseconds, for programs that start Python themselves.

`install` writes a program that takes Python's arguments: `-m module`, `-c code` or a
script. It hands them, its folder, environment and open files to a server that has
imported TensorFlow. The server forks the process that runs them. Signals reach it, it
dies with the program, and the program ends as it does.
"""

import json
import multiprocessing
import os
import pathlib
import runpy
import select
import signal
import socket
import struct
import sys
import traceback

_LENGTH = struct.Struct("!I")
_MOST_FILES = 64
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def install(folder, context):
    """Start a server and write the program that uses it.

    Args:
        folder: str, where to write.
        context: multiprocessing's context, of a fork server that has imported
            TensorFlow.

    Returns:
        str, the path of the program.
    """
    address, program = (os.path.join(folder, name) for name in ("server", "python"))
    pathlib.Path(program).write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" "{address}" "$@"\n'
    )
    os.chmod(program, 0o755)
    reader, writer = context.Pipe(duplex=False)
    arguments = (address, program, writer)
    context.Process(target=_serve, args=arguments, daemon=True).start()
    reader.recv()  # it listens
    return program


def _serve(address, program, ready):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended ones need no `wait`
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        ready.send(True)
        parent = multiprocessing.parent_process().sentinel
        while parent not in select.select([listener, parent], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _guard(connection, program)
            connection.close()


def _guard(connection, program):
    """Fork the process, forward signals, and end with its exit code."""
    request, files = _receive(connection)
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for end in (connection, woken, wakes):
            end.close()
        _run(request, files, program)
    for file in files:
        os.close(file)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            connection.sendall(struct.pack("!i", code))
            os._exit(0)
        if connection in select.select([connection, woken], [], [])[0]:
            sent = connection.recv(1)
            if not sent:  # the program was killed
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os._exit(0)
            os.kill(pid, sent[0])


def _run(request, files, program):
    """Become the process that was asked for, and end."""
    arguments, folder, environment, numbers = request
    code = 1
    try:
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Above all numbers that are asked for, so that none is overwritten.
        high = [_duplicate_above(file, 512) for file in files]
        for file, number in zip(high, numbers, strict=True):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(n, mode, 1, closefd=False) for n, mode in enumerate("rww")
        )
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.executable = program
        multiprocessing.current_process().daemon = False  # it may have children
        paths = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = list(filter(None, paths))
        code = _code_of(arguments)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _duplicate_above(file, least):
    import fcntl

    duplicate = fcntl.fcntl(file, fcntl.F_DUPFD, least)
    os.close(file)
    return duplicate


def _code_of(arguments):
    """Run what Python's arguments name, and return the exit code."""
    arguments = list(arguments)
    while arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        option = arguments.pop(0)  # of the interpreter: it runs already
        if option in ("-W", "-X"):
            del arguments[0]
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, "")
            exec(arguments[1], {"__name__": "__main__"})
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], None, "__main__", True)
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        _end()
    return 0


def _end():
    """Do what Python does before it ends."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()


def _receive(connection):
    start, files, _, _ = socket.recv_fds(connection, _LENGTH.size, _MOST_FILES)
    (length,) = _LENGTH.unpack(start)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(length)), files


def _client(address, *arguments):
    """Ask the server at an address for a process, and end as it does."""
    numbers = [n for n in map(int, os.listdir("/dev/fd")) if _is_open(n)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        for number in _FORWARDED:
            signal.signal(number, lambda n, _: connection.sendall(bytes([n])))
        request = [arguments, os.getcwd(), dict(os.environ), numbers]
        content = json.dumps(request).encode()
        length = _LENGTH.pack(len(content))
        socket.send_fds(connection, [length], numbers)
        connection.sendall(content)
        code = connection.recv(4)
    (code,) = struct.unpack("!i", code or b"\0\0\0\1")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _client(*sys.argv[1:])
