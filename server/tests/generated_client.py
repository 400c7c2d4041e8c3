"""Asks a server through a client that was generated from openapi.yaml: FOLDER-OF-THE-CLIENT URL."""

import sys
import urllib.request

folder, url = sys.argv[1:]
sys.path.insert(0, folder)

from client import Client
from client.api.pages import get_maps, get_page, list_tasks
from client.api.service import get_checkpoints
from client.api.store import get_object

client = Client(base_url=url, raise_on_unexpected_status=True)

tasks = list_tasks.sync(client=client)
pid = tasks.tasks[0].pid
checkpoints = get_checkpoints.sync(client=client)
assert checkpoints.checkpoints[0].checkpoint_id == tasks.checkpoint_id, (checkpoints, tasks)

maps = get_maps.sync(pid, client=client)
heap = next(mapping for mapping in maps.mappings if mapping.name == "[heap]")
page = get_page.sync_detailed(pid, heap.start, client=client)
assert page.status_code == 200 and len(page.content) == 4096, page
with urllib.request.urlopen(f"{url}/pid/{pid}/page/{heap.start}") as plain:
    assert plain.read() == page.content, "the generated client got other bytes"

missing = get_page.sync_detailed(pid, "1000", client=client)
assert missing.status_code == 404 and missing.parsed.type_ == "/problems#unmapped", missing
manifest = get_object.sync_detailed("checkpoint.json", client=client)
assert manifest.status_code == 200 and manifest.parsed.checkpoint_id == tasks.checkpoint_id, manifest
print(f"task {pid}, its page at {heap.start}, and what is wrong with the one at 0x1000")
