"""An index that can be searched, with a handful of images: `index.py PORT PLACE`. The place only tells whose it is."""

import http.server
import json
import sys
import urllib.parse

IMAGES = [
    # name, description, stars, official, automated
    ("ubuntu", "Ubuntu is a Debian-based Linux operating system based on free software.", 17000, True, False),
    ("node", "Node.js is a JavaScript-based platform for server-side and networking applications, and much more.", 13000, True, False),
    ("bitnami/node", "A node of somebody else", 79, False, True),
    ("circleci/node", "", 49, False, False),
]


class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/v1/_ping":
            return self.answer({"standalone": True})
        if url.path != "/v1/search":
            return self.answer({"errors": []}, 404)
        term, limit = query["q"][0].lower(), int(query.get("n", ["25"])[0])
        found = [image for image in IMAGES if term in image[0]][:limit]
        keys = ("name", "description", "star_count", "is_official", "is_automated")
        results = [dict(zip(keys, image)) for image in found]
        return self.answer({"num_results": len(results), "query": term, "results": results})

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Docker-Registry-Standalone", "True")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Index).serve_forever()
