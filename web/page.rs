//! The start page: what runs, in plain HTML.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use weir_pipeline::batch::TENANT;

use crate::Web;
use crate::value::time;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;\
padding:0 1rem;color:#1b1f24;background:#fff}table{border-collapse:collapse;width:100%;\
margin-bottom:1.5rem}th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid \
#d0d7de;vertical-align:top}code{font:13px ui-monospace,monospace}.bad{color:#b3261e}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th,td{border-color:#30363d}\
a{color:#79b8ff}.bad{color:#ff7b72}}";

pub(crate) async fn start(State(web): State<Web>) -> Response {
    let status = web.engine.status().await;
    let queries = web.queries.clone();
    let tables =
        tokio::task::spawn_blocking(move || queries.tables(TENANT)).await.unwrap_or_default();
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width\"><title>Weir</title><style>{STYLE}</style><h1>Weir</h1>\
         <p>Version {}, up since {}, {}.</p>",
        escape(&status.version),
        time(i128::from(status.started)),
        if status.ready { "ready" } else { "starting" },
    );
    for problem in status.problems.iter().chain(&status.reload.diagnostics) {
        let _ = write!(page, "<pre class=bad>{}</pre>", escape(problem));
    }
    let rows = status.sources.iter().map(|s| {
        let state = if s.running { "running" } else { "down" };
        vec![s.id.clone(), s.kind.clone(), state.to_owned(), s.listens.join(", "), s.place.clone()]
    });
    table(&mut page, "Sources", &["id", "type", "state", "listens", "defined"], rows);
    let rows = status.pipelines.iter().map(|p| {
        let nodes: Vec<&str> = p.nodes.iter().map(|n| n.id.as_str()).collect();
        vec![
            p.name.clone(),
            p.state.clone(),
            format!("{:.1} s", p.lag_ns as f64 / 1e9),
            nodes.join(" → "),
            p.errors.join("; "),
        ]
    });
    table(&mut page, "Pipelines", &["name", "state", "behind", "nodes", "errors"], rows);
    let rows = tables.iter().map(|t| {
        let latest = t.max_time.map_or(String::new(), |t| time(i128::from(t)));
        vec![
            t.name.clone(),
            t.rows.to_string(),
            t.files.to_string(),
            t.columns.len().to_string(),
            latest,
        ]
    });
    table(&mut page, "Tables", &["name", "rows", "files", "columns", "latest"], rows);
    page.push_str(
        "<h2>Ask</h2><pre>curl --data 'SELECT * FROM logs ORDER BY timestamp DESC LIMIT 10' \
         \\\n  -H 'Accept: text/csv' http://127.0.0.1:9347/api/v1/sql</pre><p>\
         <a href=/api/v1/status>status</a> · <a href=/api/v1/pipelines>pipelines</a> · \
         <a href=/api/v1/tables>tables</a> · <a href=/api/v1/alerts>alerts</a> · \
         <a href=/metrics>metrics</a></p></html>\n",
    );
    let mut response = Html(page).into_response();
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn table(page: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = write!(page, "<h2>{title}</h2><table><tr>");
    for head in heads {
        let _ = write!(page, "<th>{head}");
    }
    let mut any = false;
    for row in rows {
        any = true;
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}", escape(&cell));
        }
    }
    if !any {
        let _ = write!(page, "<tr><td colspan={}>none yet", heads.len());
    }
    page.push_str("</table>");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
