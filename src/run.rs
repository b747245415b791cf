//! `weir run`: starts the server and stops it in good order.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weir_alerts::{Router, RouterOptions, Wanted};
use weir_pipeline::checkpoint::Checkpoints;
use weir_pipeline::component::Services;
use weir_pipeline::config::{Environment, Flags};
use weir_pipeline::intake::now;
use weir_pipeline::journal::Journal;
use weir_pipeline::lookup::OwnTables;
use weir_pipeline::memory::{Parts, Rows};
use weir_pipeline::runtime::{Options, Runtime};
use weir_pipeline::telemetry::Telemetry;
use weir_pipeline::tls::ServerTls;
use weir_store::query::{Queries, QueryOptions};
use weir_store::{Store, StoreOptions};
use weir_web::{Access, Engine, ServeOptions, Web};

use crate::cli::Local;
use crate::components;
use crate::engine::{Server, journal_options, retention};
use crate::folder::Folder;
use crate::own_queries::OwnQueries;
use crate::server_file::{ServerFile, Settings};

/// A stop takes at most ten seconds in all; this is the pipelines' part.
const STOP: Duration = Duration::from_secs(8);
/// How long running answers may take after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(1);
/// How often the server file is looked at.
const SERVER_FILE_POLL: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: &Local) -> Result<ExitCode> {
    // What goes wrong with a client of others says the component that has it, in its own words.
    let usual = || EnvFilter::new("info,async_nats=off,rskafka=off");
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| usual());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let end = runtime.block_on(serve(args));
    // Without waiting for threads that a blocked pipe or disk holds: a stop is over in time.
    runtime.shutdown_background();
    end
}

impl Local {
    /// The folder of pipeline files.
    pub(crate) fn pipelines(&self) -> PathBuf {
        let given = self.pipelines.clone();
        let given = given.or_else(|| std::env::var_os("WEIR_PIPELINES").map(PathBuf::from));
        given.unwrap_or_else(|| "pipelines.d".into())
    }

    /// The server file.
    pub(crate) fn file(&self) -> ServerFile {
        let path = match &self.config {
            Some(file) => file.clone(),
            None => self.pipelines().parent().unwrap_or("".as_ref()).join("weir.toml"),
        };
        let text = |p: &PathBuf| p.display().to_string();
        let flags = Flags {
            listen: self.listen.clone(),
            data: self.data.as_ref().map(text),
            pipelines: self.pipelines.as_ref().map(text),
        };
        ServerFile { path, required: self.config.is_some(), flags }
    }
}

async fn serve(args: &Local) -> Result<ExitCode> {
    let file = args.file();
    let (settings, wrong) = match file.start() {
        Ok(started) => started,
        Err(wrong) => {
            // These say what they are themselves.
            eprint!("{wrong}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let _folder = Folder::open(&settings.config.data)?;
    if wrong.is_none() {
        settings.keep(&settings.config.data);
    }
    let Settings { config, router: router_config, warnings } = settings;
    for warning in &warnings.0 {
        tracing::warn!("{warning}");
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("the API cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");

    let checkpoints = Checkpoints::open(&config.data)?;
    let memory = Parts::of(config.memory.0);
    let rows = Rows::new(memory.rows);
    let options = StoreOptions {
        retention: retention(&config),
        cache_bytes: memory.caches / 2,
        upkeep_bytes: memory.upkeep,
        rows: rows.clone(),
        ..StoreOptions::default()
    };
    let store = Store::open(&config.data.join("tables"), options)?;
    let spill = config.data.join("spill");
    // What an earlier process left there is nobody's.
    let _ = std::fs::remove_dir_all(&spill);
    let queries =
        QueryOptions { cache_bytes: memory.caches / 2, ..QueryOptions::new(memory.queries, spill) };
    let queries = Queries::new(store.clone(), queries)?;
    queries.set_stores(&config.stores)?;
    let saved = checkpoints.highest_position()?;
    let committed = |id| store.newest_commit(id).map_or(0, |commit| commit.mark);
    let journal = Journal::open(&config.data.join("journal"), journal_options(&config), |id| {
        saved.max(committed(id))
    })?;
    // No offset is given twice, so that nothing is taken for what was committed; but entries that
    // had been acknowledged are gone.
    if let Err(ahead) = store.check_head(journal.id(), journal.head()) {
        tracing::error!("{ahead}");
    }
    let mut router = RouterOptions::new(config.data.join("router"), url.clone());
    router.ran = journal.last_tick();
    let router = Router::open(router, router_config)?;
    let telemetry = Arc::new(Telemetry::default());
    let server = Arc::new(Server {
        runtime: OnceLock::new(),
        telemetry: telemetry.clone(),
        journal: journal.clone(),
        store: store.clone(),
        queries: queries.clone(),
        router: router.clone(),
        started: now(),
        file,
        config: Mutex::new(config.clone()),
        state: Mutex::default(),
    });
    if let Some(wrong) = wrong {
        server.refuse_file(&wrong);
    }

    let own_tables = OwnTables(Arc::new(OwnQueries(queries.clone())));
    let stop = CancellationToken::new();
    let routing = tokio::spawn(router.clone().run(stop.clone()));
    let maintaining = tokio::spawn(store.clone().run_maintenance(stop.clone()));
    let web = Web {
        engine: server.clone(),
        queries,
        access: Arc::new(Access::new(config.hosts.clone(), config.tokens.clone())),
    };
    let tls = match &config.tls {
        Some(tls) => Some(Arc::new(ServerTls::load(tls, &[b"h2", b"http/1.1"])?)),
        None => None,
    };
    let serving = ServeOptions { tls, stop: stop.clone(), drain: DRAIN };
    let serving = tokio::spawn(weir_web::serve(listener, weir_web::router(web), serving));

    let runtime = Runtime::start(Options {
        data: config.data.clone(),
        pipelines: config.pipelines.clone(),
        watch: config.watch,
        components: components::ALL,
        services: Services::default()
            .with(store)
            .with(router)
            .with(telemetry.clone())
            .with(Arc::new(own_tables)),
        environment: Environment::Process,
        telemetry,
        journal,
        checkpoints,
        memory,
        rows,
    })
    .await?;
    if server.runtime.set(runtime.clone()).is_err() {
        return Err(anyhow!("the runtime was started twice"));
    }
    tracing::info!("Weir is up: {url} (pipelines in {})", config.pipelines.display());
    tokio::spawn(watch_server_file(server.clone(), stop.clone()));
    tokio::spawn(close_alerts_of_nobody(server.clone(), runtime.clone(), stop.clone()));

    wait_for_stop(&server).await?;
    tracing::info!("stopping");
    runtime.stop(STOP).await;
    stop.cancel();
    // Each of these ends by itself; what hangs is cut off with the process.
    let rest = async {
        let _ = tokio::join!(routing, maintaining, serving);
    };
    if tokio::time::timeout(Duration::from_secs(1), rest).await.is_err() {
        tracing::warn!("some work was cut off by the stop");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns at SIGTERM or SIGINT; SIGHUP reloads.
async fn wait_for_stop(server: &Arc<Server>) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => {
                let server = server.clone();
                tokio::spawn(async move { drop(server.reload().await) });
            }
        }
    }
}

/// Applies the server file whenever its content changes.
async fn watch_server_file(server: Arc<Server>, stop: CancellationToken) {
    let read = || std::fs::read(&server.file.path).ok();
    let mut seen = read();
    loop {
        let pause = tokio::time::sleep(SERVER_FILE_POLL);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let content = read();
        if content == seen {
            continue;
        }
        seen = content;
        if server.apply().await {
            tracing::info!("server file applied");
        }
    }
}

/// After every reload: alerts whose rule is gone are closed, also where their pipeline could not
/// say so any more (its checkpoint was lost, for instance).
async fn close_alerts_of_nobody(
    server: Arc<Server>,
    runtime: Arc<Runtime>,
    stop: CancellationToken,
) {
    let mut outcomes = runtime.outcomes();
    loop {
        let pipelines = runtime.pipelines();
        let alerts = pipelines.iter().flat_map(|p| {
            let alerts = p.nodes.iter().filter(|n| n.class == "alert");
            alerts.map(|n| (p.name.clone(), n.id.clone()))
        });
        // One that is down still owns its alerts, also where its rules are not known.
        let down = pipelines.iter().filter(|p| p.state == "down");
        let wanted = down.fold(alerts.collect::<Wanted>(), |w, p| w.with_pipeline(p.name.clone()));
        if let Err(error) = server.router.retain(wanted).await {
            tracing::warn!(%error, "alerts of removed rules stay open");
        }
        match stop.run_until_cancelled(outcomes.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}
