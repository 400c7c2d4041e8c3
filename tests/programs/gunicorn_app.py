"""A WSGI application with a large data structure that its workers share: loaded once, before the fork (--preload)."""

import hashlib
import os
import random

ITEMS = int(os.environ["ITEMS"])

_random = random.Random(2)
_words = ["".join(_random.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(4000)]
DATA = {
    n: {"id": n, "name": " ".join(_random.choices(_words, k=6)), "price": _random.random(), "tags": _random.sample(_words, 3)}
    for n in range(ITEMS)
}


def digest():
    """Touches every object."""
    total = hashlib.sha256()
    for n, item in DATA.items():
        total.update(repr((n, item)).encode())
    return total.hexdigest()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/state":
        body = f"{os.getpid()} {len(DATA)} {digest()}"
    elif path.startswith("/item/"):
        body = repr(DATA[int(path.removeprefix("/item/"))])
    else:
        body = f"{os.getpid()}"
    body = body.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
