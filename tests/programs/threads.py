"""What else a process tree can have: threads with memory of their own, shared memory, a live child, a dead one.

Answers GET /state with one line per part. Every part is read by the task or thread that owns it.
"""

import hashlib
import mmap
import os
import queue
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, PART_SIZE = int(sys.argv[1]), int(sys.argv[2])
THREADS = 4


def content(seed):
    """Half noise, a quarter text, a quarter zeros: no two parts are the same."""
    quarter = PART_SIZE // 4
    text = b"".join(b"line %d of part %d\n" % (n, seed) for n in range(quarter // 16))[:quarter]
    return random.Random(seed).randbytes(2 * quarter) + text + bytes(PART_SIZE - 2 * quarter - len(text))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def worker(seed, questions, answers):
    own = bytearray(content(seed))
    while True:
        questions.get()
        answers.put(f"{threading.get_native_id()} {digest(own)}")


def child(shared, questions, answers):
    own = bytearray(content(100))
    while os.read(questions, 1):
        os.write(answers, f"{os.getpid()} {digest(own)} {digest(shared[:])}\n".encode())
    os._exit(0)


shared = mmap.mmap(-1, PART_SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
shared[:] = content(99)

to_child, from_child = os.pipe(), os.pipe()
child_pid = os.fork()
if child_pid == 0:
    os.close(to_child[1])
    child(shared, to_child[0], from_child[1])
os.close(to_child[0])

dead_pid = os.fork()
if dead_pid == 0:
    os._exit(7)
os.waitid(os.P_PID, dead_pid, os.WEXITED | os.WNOWAIT)

workers = []
for seed in range(THREADS):
    questions, answers = queue.Queue(), queue.Queue()
    threading.Thread(target=worker, args=(seed, questions, answers), daemon=True).start()
    workers.append((questions, answers))


def state():
    for questions, _ in workers:
        questions.put(None)
    lines = [f"thread {n} {answers.get()}" for n, (_, answers) in enumerate(workers)]
    os.write(to_child[1], b"?")
    lines.append(f"child {os.read(from_child[0], 4096).decode().strip()}")
    dead = os.waitid(os.P_PID, dead_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    lines.append(f"dead {dead.si_pid} {dead.si_status}")
    lines.append(f"shared {digest(shared[:])}")
    return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = (state() if self.path == "/state" else str(os.getpid())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
