//! The questions, in the language of each engine.

use jiff::{Timestamp, ToSpan};

/// A question. `{times}` stands for the condition on time and `{trace}` for the id of a trace.
pub(super) struct Question {
    pub(super) name: &'static str,
    /// Hours that it looks back from the end of the data.
    pub(super) hours: i64,
    sql: &'static str,
    /// What differs in the SQL of ClickHouse and of DuckDB.
    clickhouse: &'static [Change],
    duckdb: &'static [Change],
    /// Step in seconds, and the expression; a step of 0 asks for the last moment alone.
    pub(super) promql: Option<(u32, &'static str)>,
}

/// Text, and what stands there instead.
type Change = (&'static str, &'static str);

impl Question {
    pub(super) fn weir(&self, end: Timestamp, trace: &str) -> String {
        self.filled(self.sql, end, trace, "timestamp > '{from}' AND timestamp <= '{to}'")
    }

    pub(super) fn clickhouse(&self, end: Timestamp, trace: &str) -> String {
        let times = "timestamp > parseDateTime64BestEffort('{from}', 9, 'UTC') \
                     AND timestamp <= parseDateTime64BestEffort('{to}', 9, 'UTC')";
        self.filled(&changed(self.sql, self.clickhouse), end, trace, times)
    }

    pub(super) fn duckdb(&self, end: Timestamp, trace: &str) -> String {
        let times = "timestamp > TIMESTAMPTZ '{from}' AND timestamp <= TIMESTAMPTZ '{to}'";
        self.filled(&changed(self.sql, self.duckdb), end, trace, times)
    }

    fn filled(&self, sql: &str, end: Timestamp, trace: &str, times: &str) -> String {
        let from = match self.hours {
            0 => end - 5.minutes(),
            hours => end - hours.hours(),
        };
        let times = times.replace("{from}", &from.to_string()).replace("{to}", &end.to_string());
        sql.replace("{times}", &times).replace("{trace}", trace)
    }
}

fn changed(sql: &str, changes: &[Change]) -> String {
    DOTTED.iter().chain(changes).fold(sql.to_owned(), |sql, (from, to)| sql.replace(from, to))
}

/// Names that only Weir takes as they are.
const DOTTED: [Change; 3] = [
    ("metric.name", "\"metric.name\""),
    ("service.name", "\"service.name\""),
    ("http.route", "\"http.route\""),
];

pub(super) const METRICS: [Question; 6] = [
    Question {
        name: "average by mode, 1 h by the minute",
        hours: 1,
        sql: "SELECT date_bin(interval '1 minute', timestamp) AS t, mode, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, mode ORDER BY t",
        clickhouse: &[(
            "date_bin(interval '1 minute', timestamp)",
            "toStartOfInterval(timestamp, INTERVAL 1 MINUTE)",
        )],
        duckdb: &[("date_bin(interval '1 minute',", "time_bucket(INTERVAL '1 minute',")],
        promql: Some((60, "avg by (mode) (avg_over_time(load_1_requests[1m]))")),
    },
    Question {
        name: "average by mode, 6 h by 5 minutes",
        hours: 6,
        sql: "SELECT date_bin(interval '5 minute', timestamp) AS t, mode, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, mode ORDER BY t",
        clickhouse: &[(
            "date_bin(interval '5 minute', timestamp)",
            "toStartOfInterval(timestamp, INTERVAL 5 MINUTE)",
        )],
        duckdb: &[("date_bin(interval '5 minute',", "time_bucket(INTERVAL '5 minute',")],
        promql: Some((300, "avg by (mode) (avg_over_time(load_1_requests[5m]))")),
    },
    Question {
        name: "average by job, 24 h by 15 minutes",
        hours: 24,
        sql: "SELECT date_bin(interval '15 minute', timestamp) AS t, job, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, job ORDER BY t",
        clickhouse: &[(
            "date_bin(interval '15 minute', timestamp)",
            "toStartOfInterval(timestamp, INTERVAL 15 MINUTE)",
        )],
        duckdb: &[("date_bin(interval '15 minute',", "time_bucket(INTERVAL '15 minute',")],
        promql: Some((900, "avg by (job) (avg_over_time(load_1_requests[15m]))")),
    },
    Question {
        name: "greatest of all, 24 h by the hour",
        hours: 24,
        sql: "SELECT date_bin(interval '1 hour', timestamp) AS t, max(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t ORDER BY t",
        clickhouse: &[(
            "date_bin(interval '1 hour', timestamp)",
            "toStartOfInterval(timestamp, INTERVAL 1 HOUR)",
        )],
        duckdb: &[("date_bin(interval '1 hour',", "time_bucket(INTERVAL '1 hour',")],
        promql: Some((3600, "max(max_over_time(load_1_requests[1h]))")),
    },
    Question {
        name: "top ten instances, 24 h",
        hours: 24,
        sql: "SELECT instance, max(value) AS m FROM metrics WHERE metric.name = 'load_1_requests' \
              AND {times} GROUP BY instance ORDER BY m DESC LIMIT 10",
        clickhouse: &[],
        duckdb: &[],
        promql: Some((0, "topk(10, max by (instance) (max_over_time(load_1_requests[24h])))")),
    },
    Question {
        name: "last value of all 10,000 series, of 5 minutes",
        hours: 0,
        sql: "SELECT metric.name, instance, mode, last_value(value ORDER BY timestamp) \
              FROM metrics WHERE {times} GROUP BY metric.name, instance, mode",
        clickhouse: &[("last_value(value ORDER BY timestamp)", "argMax(value, timestamp)")],
        duckdb: &[("last_value(value ORDER BY timestamp)", "arg_max(value, timestamp)")],
        promql: Some((0, "last_over_time({instance!=\"\"}[5m])")),
    },
];

pub(super) const EVENTS: [Question; 6] = [
    Question {
        name: "newest 100 errors of a service",
        hours: 24,
        sql: "SELECT timestamp, severity, body FROM logs WHERE severity = 'ERROR' \
              AND service.name = 'cart' AND {times} ORDER BY timestamp DESC LIMIT 100",
        clickhouse: &[],
        duckdb: &[],
        promql: None,
    },
    Question {
        name: "newest 100 log records with a rare word",
        hours: 24,
        sql: "SELECT timestamp, body FROM logs WHERE has_token(body, 'unusual') AND {times} \
              ORDER BY timestamp DESC LIMIT 100",
        clickhouse: &[("has_token", "hasToken")],
        duckdb: &[("has_token(body, 'unusual')", "regexp_matches(body, '\\bunusual\\b')")],
        promql: None,
    },
    Question {
        name: "newest 100 log records with part of a rare word",
        hours: 24,
        sql: "SELECT timestamp, body FROM logs WHERE body LIKE '%unusua%' AND {times} \
              ORDER BY timestamp DESC LIMIT 100",
        clickhouse: &[],
        duckdb: &[],
        promql: None,
    },
    Question {
        name: "log records by severity, 24 h by 15 minutes",
        hours: 24,
        sql: "SELECT date_bin(interval '15 minute', timestamp) AS t, severity, count(*) FROM logs \
              WHERE {times} GROUP BY t, severity ORDER BY t",
        clickhouse: &[(
            "date_bin(interval '15 minute', timestamp)",
            "toStartOfInterval(timestamp, INTERVAL 15 MINUTE)",
        )],
        duckdb: &[("date_bin(interval '15 minute',", "time_bucket(INTERVAL '15 minute',")],
        promql: None,
    },
    Question {
        name: "p99 of spans by route, 6 h",
        hours: 6,
        sql: "SELECT http.route, count(*), approx_percentile_cont(duration_ns, 0.99) FROM spans \
              WHERE {times} GROUP BY http.route",
        clickhouse: &[("approx_percentile_cont(duration_ns, 0.99)", "quantile(0.99)(duration_ns)")],
        duckdb: &[("approx_percentile_cont(", "approx_quantile(")],
        promql: None,
    },
    Question {
        name: "a trace by its id, all time",
        hours: 24,
        sql: "SELECT * FROM spans WHERE trace_id = '{trace}'",
        clickhouse: &[],
        duckdb: &[],
        promql: None,
    },
];
