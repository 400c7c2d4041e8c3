"""A process that is nothing but memory: as many bytes as it is told, half of them noise, no two pages the same.

GET /item/N       the beginning of page N
GET /touch/N/S/C  nanoseconds that reading a byte took, of C pages from N on, every S pages
GET /state        a checksum over everything
With a third argument a second process, forked when all is there, answers the same on the next port.
"""

import json
import mmap
import os
import random
import struct
import sys
import time
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, SIZE = int(sys.argv[1]), int(sys.argv[2])
PAGE, NOISE = 4096, 1600

pool = random.Random(1).randbytes(1 << 20)
memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(SIZE // PAGE):
    start = page * 7919 % (len(pool) - NOISE)
    memory[page * PAGE:page * PAGE + 8 + NOISE] = struct.pack("<Q", page) + pool[start:start + NOISE]
del pool

if len(sys.argv) > 3 and os.fork() == 0:
    PORT += 1


def touch(first, step, count):
    clock, times = time.perf_counter_ns, []
    for at in range(first * PAGE, (first + step * count) * PAGE, step * PAGE):
        start = clock()
        memory[at]
        times.append(clock() - start)
    return times


def answer(path):
    words = path.strip("/").split("/")
    if words[0] == "item":
        page = int(words[1])
        return memory[page * PAGE:page * PAGE + 16].hex()
    if words[0] == "touch":
        return json.dumps(touch(*map(int, words[1:])))
    if words[0] == "state":
        total, step = 0, 1 << 20
        for at in range(0, SIZE, step):
            total = zlib.crc32(memory[at:at + step], total)
        return f"{os.getpid()} {total:08x}"
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
