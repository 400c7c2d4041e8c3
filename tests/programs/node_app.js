// An HTTP server over a few hundred thousand objects.
const crypto = require('crypto');
const http = require('http');
const [port, count] = process.argv.slice(2).map(Number);

// mulberry32: the same objects in every run.
let seed = 3;
function random() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

const objects = [];
for (let n = 0; n < count; n++) {
  objects.push({ id: n, name: `object ${n} ${Math.floor(random() * 1e9).toString(36)}`, weight: random(), tags: [n % 7, n % 11, n % 13] });
}

// Touches every object.
function digest() {
  const hash = crypto.createHash('sha256');
  for (const object of objects) hash.update(JSON.stringify(object));
  return hash.digest('hex');
}

http.createServer((request, response) => {
  response.setHeader('Connection', 'close');
  if (request.url === '/state') response.end(`${process.pid} ${objects.length} ${digest()}`);
  else if (request.url.startsWith('/item/')) response.end(JSON.stringify(objects[Number(request.url.slice(6))]));
  else response.end(String(objects.length));
}).listen(port, '127.0.0.1');
