"""A ClickHouse (chdb) behind the HTTP interface of a server, as far as clients of Weir speak it.

Usage: clickhouse.py FOLDER PORT. Settings and the query come as URL parameters, a query also
as the body; of an INSERT the body is the data. Errors are answered as a server does: HTTP 500 (404 for
an unknown table or database), with the code in X-ClickHouse-Exception-Code.
"""

import http.server
import re
import sys
import tempfile
import threading
import urllib.parse

from chdb import session

INSERT = re.compile(r"\s*(INSERT INTO .*?)\s+FORMAT\s+(\w+)\s*$", re.S | re.I)
CODE = re.compile(r"Code: (\d+)\.")
# What is no setting of a query.
OWN = {"query", "database", "default_format", "user", "password", "role", "compress", "decompress"}

engine = session.Session(sys.argv[1])
alone = threading.Lock()


def run(params, body):
    sql = params.get("query")
    if not sql:
        sql, body = body.decode(), b""
    settings = {k: v for k, v in params.items() if k not in OWN}
    said = ", ".join("%s = '%s'" % (k, v.replace("'", "\\'")) for k, v in settings.items())
    insert = INSERT.match(sql)
    form = params.get("default_format", "TabSeparated")
    with alone, tempfile.NamedTemporaryFile() as file:
        if database := params.get("database"):
            engine.query(f"USE `{database}`")
        if insert:
            file.write(body)
            file.flush()
            head, kind = insert.groups()
            settings = f" SETTINGS {said}" if said else ""
            sql = f"{head} FROM INFILE '{file.name}'{settings} FORMAT {kind}"
        elif said and sql.lstrip().upper().startswith("SELECT"):
            sql = f"{sql} SETTINGS {said}"
        return engine.query(sql, form).bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        params = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        code = None
        try:
            answer, status = run(params, body) or b"", 200
        except Exception as error:
            answer = str(error).encode()
            code = (CODE.search(str(error)) or [None, "1001"])[1]
            status = 404 if code in ("60", "81") else 500
            # The engine gives what it had before the error in front of its next answer.
            with alone:
                engine.query("SELECT 1")
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
