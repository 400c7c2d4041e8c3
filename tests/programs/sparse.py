"""A process with one huge mapping of which every STEPth page has content, and that does what it is told to it.

GET /item/N    what page N * STEP begins with
GET /state     a checksum over all pages with content that are still there
GET /discard   MADV_DONTNEED for 3 GiB in the middle: what was there, read from now on, is zeros
GET /unmap     munmap of the same
GET /exec      becomes another program
GET /exit      ends
"""

import ctypes
import mmap
import os
import struct
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, SIZE, STEP = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
PAGE, MAP_NORESERVE = 4096, 0x4000
MADV_NOHUGEPAGE = 15
HOLE = (512 << 20, (512 << 20) + (3 << 30))

libc = ctypes.CDLL(None, use_errno=True)
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
memory.madvise(MADV_NOHUGEPAGE)
PAGES = range(0, SIZE // PAGE, STEP)
for page in PAGES:
    memory[page * PAGE:page * PAGE + 16] = struct.pack("<QQ", page, page * 0x9E3779B97F4A7C15 % (1 << 64))
unmapped = False


def is_there(page):
    return not (unmapped and HOLE[0] <= page * PAGE < HOLE[1])


def state():
    total = 0
    for page in filter(is_there, PAGES):
        total = zlib.crc32(memory[page * PAGE:page * PAGE + PAGE], total)
    return f"{total:08x}"


def unmap():
    global unmapped
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.munmap(start + HOLE[0], HOLE[1] - HOLE[0]) != 0:
        return os.strerror(ctypes.get_errno())
    unmapped = True
    return "done"


def answer(path):
    words = path.strip("/").split("/")
    if words[0] == "item":
        page = int(words[1]) * STEP
        return memory[page * PAGE:page * PAGE + 16].hex()
    if words[0] == "state":
        return state()
    if words[0] == "discard":
        memory.madvise(mmap.MADV_DONTNEED, HOLE[0], HOLE[1] - HOLE[0])
        return "done"
    if words[0] == "unmap":
        return unmap()
    if words[0] == "exec":
        threading.Timer(0.05, os.execv, ("/bin/sleep", ["sleep", "1000"])).start()
    if words[0] == "exit":
        threading.Timer(0.05, os._exit, (0,)).start()
    return str(os.getpid())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = answer(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
