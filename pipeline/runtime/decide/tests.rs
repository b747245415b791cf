#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;
use crate::backlog::{Backlog, Policy};
use crate::component::{
    Operator, OperatorPlan, OutputPlan, Sink, SinkContext, SinkError, SinkPlan,
};
use crate::config::Bundle;
use crate::diagnostic::{SourceText, Span};
use crate::plan::{From, NodePlan, OnError, Work};

/// Its state has this shape.
#[derive(Debug)]
struct Shaped(Option<&'static str>);

impl OperatorPlan for Shaped {
    fn outputs(&self) -> Vec<OutputPlan> {
        Vec::new()
    }
    fn columns(&self) -> Vec<String> {
        Vec::new()
    }
    fn state_shape(&self) -> Option<String> {
        self.0.map(str::to_owned)
    }
    fn reach(&self) -> i64 {
        0
    }
    fn build(&self) -> Box<dyn Operator> {
        unreachable!("decisions build nothing")
    }
}

#[derive(Debug)]
struct NoSink;

impl SinkPlan for NoSink {
    fn build(&self, _: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        unreachable!("decisions build nothing")
    }
}

/// A node of `id kind shape resolved`; `-` for no shape, the kind `store` for a sink, `id<was`.
fn node(text: &'static str) -> NodePlan {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap();
    let (id, kind, shape, resolved) = (word(), word(), word(), word());
    let (id, was) = id.split_once('<').map_or((id, None), |(id, was)| (id, Some(was)));
    let plan = Arc::new(Shaped(Some(shape).filter(|s| *s != "-")));
    let file = SourceText { path: "a.toml".into(), text: "token = \"hush-hush\"\n".into() };
    NodePlan {
        id: id.into(),
        was: was.map(Into::into),
        kind,
        work: match kind {
            "store" => Work::Sink(Arc::new(NoSink)),
            "alert" => Work::Alert(plan),
            _ => Work::Operator(plan),
        },
        inputs: Vec::new(),
        on_error: OnError::Reject,
        resolved: resolved.into(),
        backlog: Backlog::with(Policy::Skip),
        header: Span { file: Arc::new(file), range: 0..1 },
    }
}

fn plan(name: &str, text: &[&'static str]) -> Arc<PipelinePlan> {
    let content = text.join("\n");
    Arc::new(PipelinePlan {
        name: name.into(),
        path: PathBuf::from(format!("{name}.toml")),
        hash: format!("{name}: {content}"),
        content,
        bundle: Bundle::default(),
        from: From::Now,
        backlog: Backlog::with(Policy::Refuse),
        nodes: text.iter().map(|t| node(t)).collect(),
        partitioned: BTreeMap::new(),
        tests: Vec::new(),
        test_nodes: None,
        guessed: BTreeMap::new(),
    })
}

/// What becomes of each node: `id change state`, with `why` behind a colon.
#[track_caller]
fn check(before: &[&'static str], after: &[&'static str], expected: &[&str]) {
    let (before, after) = (plan("p", before), plan("p", after));
    let said: Vec<String> = nodes(&before, &after, &shapes(&before))
        .into_iter()
        .map(|n| {
            let why = n.why.map(|why| format!(": {why}")).unwrap_or_default();
            let was = n.was.map(|was| format!(" of {was}")).unwrap_or_default();
            format!("{} {:?} {:?}{was}{why}", n.id, n.change, n.state)
        })
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn what_stays_keeps_its_state() {
    check(
        &["v vrl - a", "w window x a", "s store - a"],
        &["v vrl - b", "w window x a", "s store - a"],
        &["v Changed None", "w Kept Kept", "s Kept None"],
    );
    check(&["w window x a"], &["w window x b"], &["w Changed Kept"]);
}

#[test]
fn why_a_state_is_dropped() {
    check(
        &["w window x a"],
        &["w window y b"],
        &["w Changed Dropped: the shape of its state changed from `x` to `y`"],
    );
    check(
        &["w window x a"],
        &["w staleness x a"],
        &["w Kept Emitted: its type changed from `window` to `staleness`"],
    );
    check(
        &["w window x a"],
        &["w vrl - b"],
        &["w Changed Emitted: its type changed from `window` to `vrl`"],
    );
}

#[test]
fn an_id_that_changes_needs_was() {
    check(
        &["w window x a"],
        &["n window x a"],
        &[
            "n New Empty: if it is `w` under a new id, `was = \"w\"` takes over its state",
            "w Removed Emitted",
        ],
    );
    check(
        &["w window x a"],
        &["n<w window x a"],
        &["n New Kept of w", "w Removed None: it is `n` now"],
    );
    // One that cannot take it over is not told to.
    check(&["w window x a"], &["n window y a"], &["n New Empty", "w Removed Emitted"]);
}

#[test]
fn sinks_start_again_if_they_or_their_pipeline_are_another() {
    check(
        &["s store - a", "t store - a"],
        &["s store - b", "u store - a"],
        &["s Changed None", "u New None", "t Removed None"],
    );
    let (before, after) = (plan("p", &["s store - a"]), plan("q", &["s store - a"]));
    assert_eq!(nodes(&before, &after, &shapes(&before))[0].change, Turn::Changed);
}

#[test]
fn a_shape_shows_no_secret() {
    let (before, after) = (plan("p", &["w window x a"]), plan("p", &["w window hush-hush b"]));
    let changes = nodes(&before, &after, &shapes(&before));
    let shapes = changes[0].shapes.clone().unwrap();
    assert_eq!((shapes.from.as_str(), shapes.to.as_str()), ("x", "***"));
    assert!(!changes[0].why.clone().unwrap().contains("hush"));
}

#[test]
fn fates_of_pipelines() {
    let runs = |plan: &Arc<PipelinePlan>, asked: Asked| {
        (Consumer::pipeline(&plan.name), Present { plan: plan.clone(), asked })
    };
    let settled = |plan: &Arc<PipelinePlan>| runs(plan, Asked::Plan(plan.hash.clone()));
    let (same, edited) = (plan("a", &["w window x a"]), plan("b", &["w window x b"]));
    let (old, gone) = (plan("c", &["w window x c"]), plan("d", &["w window x d"]));
    let ends = plan("e", &["w window x e"]);
    let present = [
        settled(&same),
        settled(&edited),
        settled(&old),
        settled(&gone),
        runs(&ends, Asked::Removal),
    ];
    let next = [
        same,
        plan("b", &["w window x new"]),
        plan("n", &["w window x c"]),
        plan("z", &["w window x z"]),
    ];
    let wanted = next.into_iter().map(|p| (p.name.clone(), p)).collect();
    let (fates, fresh) = fates(&present.into_iter().collect(), &wanted);
    let said: Vec<String> = fates
        .iter()
        .map(|fate| match fate {
            Fate::Stays(p) => format!("stays {}", p.name),
            Fate::Changes(p) => format!("changes {}", p.content),
            Fate::Renamed(p) => format!("renamed {}", p.name),
            Fate::Ends | Fate::Removed | Fate::Apart => format!("{fate:?}"),
        })
        .collect();
    assert_eq!(said, ["stays a", "changes w window x new", "renamed n", "Removed", "Ends"]);
    let fresh: Vec<&str> = fresh.iter().map(|p| &*p.name).collect();
    assert_eq!(fresh, ["z"]);
}

#[test]
fn fates_of_detached_sinks() {
    let now = plan("p", &["s store - a"]);
    let other = plan("p", &["s store - b"]);
    let without = plan("p", &["t store - a"]);
    assert!(matches!(detached("s", Some(&now), Some(&now)), DetachedFate::GoesOn));
    assert!(matches!(detached("s", None, Some(&now)), DetachedFate::Restarts(_)));
    assert!(matches!(detached("s", Some(&now), Some(&other)), DetachedFate::Restarts(_)));
    assert!(matches!(detached("s", Some(&now), Some(&without)), DetachedFate::Removed));
    assert!(matches!(detached("s", Some(&now), None), DetachedFate::WithPipeline));
}
