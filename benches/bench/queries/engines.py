"""Asks ClickHouse (chdb) and DuckDB the questions of the queries part, in this process.

Usage: engines.py FOLDER < QUESTIONS, where FOLDER holds TABLE.parquet as `weir export` writes them
and QUESTIONS is JSON: for each question and engine, a list of statements for each time that it is
asked. Prints JSON: for each engine and question, the milliseconds of each time. Each engine gets its
tables in the order and with the indices that its users would choose.
"""

import json
import os
import sys
import tempfile
import time

from chdb import session
import duckdb
import pyarrow.parquet as pq

ORDER = {
    "metrics": ["metric.name", "job", "instance", "mode", "timestamp"],
    "logs": ["service.name", "timestamp"],
    "spans": ["service.name", "timestamp"],
}
INDICES = {
    "logs": "INDEX body body TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 1",
    "spans": "INDEX trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1",
}
# Texts of which there are many; the others are LowCardinality.
MANY = {"body", "trace_id", "span_id", "parent_span_id", "attributes"}


def quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def clickhouse_type(field):
    kind = str(field.type)
    if kind.startswith("timestamp"):
        return "DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1))"
    if kind in ("string", "large_string"):
        few = field.name not in MANY
        return "LowCardinality(String)" if few else "String CODEC(ZSTD(1))"
    numbers = {"int64": "Int64", "int32": "Int32", "double": "Float64", "bool": "Bool"}
    return numbers.get(kind, "String") + " CODEC(ZSTD(1))"


class ClickHouse:
    def __init__(self, folder):
        self.session = session.Session(folder + "/clickhouse")
        self.run("CREATE DATABASE bench ENGINE = Atomic")
        self.run("USE bench")

    def run(self, sql):
        return str(self.session.query(sql, "JSONCompact"))

    def table(self, name, path):
        fields = [f for f in pq.read_schema(path)]
        columns = [f'"{f.name}" {clickhouse_type(f)}' for f in fields]
        columns += [INDICES[name]] if name in INDICES else []
        order = [c for c in ORDER[name] if c in {f.name for f in fields}]
        self.run(f"CREATE TABLE {name} ({', '.join(columns)}) ENGINE = MergeTree "
                 f"ORDER BY ({quoted(order)})")
        names = quoted(f.name for f in fields)
        self.run(f"INSERT INTO {name} ({names}) SELECT {names} FROM file('{path}', Parquet) "
                 "SETTINGS schema_inference_make_columns_nullable = 0")
        self.run(f"OPTIMIZE TABLE {name} FINAL")
        return json.loads(self.run(f"SELECT count() FROM {name}"))["data"][0][0]


class DuckDB:
    def __init__(self, folder):
        self.base = duckdb.connect(folder + "/duckdb")
        self.base.execute("SET TimeZone = 'UTC'")

    def run(self, sql):
        return self.base.execute(sql).fetchall()

    def table(self, name, path):
        have = {f.name for f in pq.read_schema(path)}
        order = quoted(c for c in ORDER[name] if c in have)
        self.run(f"CREATE TABLE {name} AS SELECT * FROM '{path}' ORDER BY {order}")
        return self.run(f"SELECT count(*) FROM {name}")[0][0]


def ask(engine, statements):
    start = time.perf_counter()
    for sql in statements:
        engine.run(sql)
    return (time.perf_counter() - start) * 1e3


def main():
    folder = sys.argv[1]
    questions = json.load(sys.stdin)
    files = sorted(os.listdir(folder))
    told = {}
    for name, engine in (("clickhouse", ClickHouse), ("duckdb", DuckDB)):
        with tempfile.TemporaryDirectory() as own:
            engine = engine(own)
            for file in files:
                rows = pq.read_metadata(os.path.join(folder, file)).num_rows
                kept = engine.table(file.partition(".")[0], os.path.join(folder, file))
                assert int(kept) == rows, f"{name} has {kept} of {rows} rows of {file}"
            told[name] = [[ask(engine, one) for one in q[name]] for q in questions]
    json.dump(told, sys.stdout)


main()
