"""A mirror on loopback, for comparison: a proxy that answers GET with files. `python3 mirror.py PORT MAP.json`

The map has the path of a file for each URL.
"""

from __future__ import annotations

import http.server
import json
import shutil
import sys
from pathlib import Path


class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    files: dict[str, str]

    def do_GET(self) -> None:
        path = self.files.get(self.path)
        if path is None:
            self.send_error(404)
            return
        with Path(path).open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(Path(path).stat().st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, 1 << 20)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Mirror.files = json.loads(Path(sys.argv[2]).read_text())
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Mirror).serve_forever()
