//! The HTTP API: SQL over the tables, what runs, taps, alerts, metrics, and a plain start page.
//!
//! | path | |
//! |---|---|
//! | `POST /api/v1/sql` | answers one read-only statement, see [`sql`] |
//! | `GET /api/v1/tables` | tables and columns |
//! | `GET /api/v1/status` | everything that `weir status` shows |
//! | `GET /api/v1/pipelines` | graphs, states, positions |
//! | `GET /api/v1/pipelines/{name}/tap/{id}` | rows of an edge as they flow, NDJSON |
//! | `GET /api/v1/alerts` | alert states and notifications |
//! | `GET /api/v1/plan` | what a reload would do now, node by node |
//! | `POST /api/v1/replay` | what an edited file would have made of retained journal, see [`replay`] |
//! | `POST /api/v1/reload` | reloads the files, answers with the outcome |
//! | `POST /api/v1/notify/{receiver}` | sends a test page |
//! | `GET /metrics`, `/healthz`, `/readyz` | for machines |
//!
//! Safe by default: only names of this host (and `server.hosts`) in `Host`, no foreign `Origin`,
//! no CORS header, bearer tokens where configured. This crate knows no runtime: what runs comes
//! through [`Engine`].

mod access;
#[cfg(test)]
mod api_tests;
mod engine;
mod error;
mod page;
pub mod replay;
mod serve;
pub mod sql;
mod tap;
mod value;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use weir_pipeline::batch::TENANT;
use weir_store::query::Queries;

pub use access::Access;
pub use engine::{
    ComponentReport, DetachedReport, Engine, EngineError, FileReport, JournalReport, NodeReport,
    PipelineReport, ReloadReport, Replay, SourceReport, Status, Tap,
};
pub use error::ApiError;
pub use serve::{ServeOptions, serve};

/// Most bytes of a request body. The longest is a SQL text.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a reload may take before the client is told that it goes on without it, or that its
/// plan has to wait for one.
const RELOAD_DEADLINE: Duration = Duration::from_secs(60);
/// How long a test page may take to be delivered.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(60);

/// What the handlers work with.
#[derive(Clone)]
pub struct Web {
    /// What runs.
    pub engine: Arc<dyn Engine>,
    /// What answers SQL.
    pub queries: Arc<Queries>,
    /// Who may ask.
    pub access: Arc<Access>,
}

/// Every route, guarded.
pub fn router(web: Web) -> Router {
    let api = Router::new()
        .route("/", get(page::start))
        .route("/metrics", get(metrics))
        .route("/api/v1/sql", post(sql::answer))
        .route("/api/v1/tables", get(tables))
        .route("/api/v1/status", get(status))
        .route("/api/v1/pipelines", get(pipelines))
        .route("/api/v1/pipelines/{name}/tap/{id}", get(tap::rows))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/plan", get(plan))
        .route(
            "/api/v1/replay",
            post(replay::answer).layer(DefaultBodyLimit::max(replay::BODY_BYTES_MAX)),
        )
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/notify/{receiver}", post(notify))
        .route_layer(middleware::from_fn_with_state(web.clone(), access::token));
    let open =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    api.merge(open)
        .fallback(|| async { ApiError::not_found("there is no such page") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this path takes another method",
            )
        })
        .layer(middleware::from_fn_with_state(web.clone(), access::host_and_origin))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(web)
}

async fn metrics(State(web): State<Web>) -> Response {
    let text = web.engine.metrics();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn ready(State(web): State<Web>) -> Response {
    match web.engine.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn tables(State(web): State<Web>) -> Result<Response, ApiError> {
    let queries = web.queries.clone();
    let tables = tokio::task::spawn_blocking(move || queries.tables(TENANT))
        .await
        .map_err(|_| ApiError::internal("listing tables failed"))?;
    Ok(Json(serde_json::json!({ "tables": tables })).into_response())
}

async fn status(State(web): State<Web>) -> Json<Status> {
    Json(web.engine.status().await)
}

async fn pipelines(State(web): State<Web>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "pipelines": web.engine.pipelines().await }))
}

async fn alerts(State(web): State<Web>) -> Json<serde_json::Value> {
    Json(web.engine.alerts().await)
}

async fn reload(State(web): State<Web>) -> Result<Response, ApiError> {
    let engine = web.engine.clone();
    // A task of its own: a reload is not given up half way because a client went away.
    let work = tokio::spawn(async move { engine.reload().await });
    match tokio::time::timeout(RELOAD_DEADLINE, work).await {
        Ok(Ok(report)) => Ok(Json(report?).into_response()),
        Ok(Err(_)) => Err(ApiError::internal("the reload met a bug")),
        Err(_) => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "the reload goes on; see `weir status` for its outcome",
        )),
    }
}

async fn plan(State(web): State<Web>) -> Result<Response, ApiError> {
    match tokio::time::timeout(RELOAD_DEADLINE, web.engine.plan()).await {
        Ok(planned) => Ok(Json(planned?).into_response()),
        Err(_) => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "a reload is under way; ask again when it has ended",
        )),
    }
}

async fn notify(
    State(web): State<Web>,
    Path(receiver): Path<String>,
) -> Result<Response, ApiError> {
    match tokio::time::timeout(NOTIFY_DEADLINE, web.engine.notify(&receiver)).await {
        Ok(outcome) => Ok(Json(outcome?).into_response()),
        Err(_) => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!("receiver `{receiver}` did not take the page in time"),
        )),
    }
}
