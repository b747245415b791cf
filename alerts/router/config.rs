//! Receivers and the routing tree, as people write them in `weir.toml` and as proved.
//!
//! ```toml
//! [receivers.oncall]
//! slack     = { channel = "#ops", token = "env:SLACK_TOKEN" }
//! pagerduty = { routing_key = "file:/run/secrets/pd" }
//! [route]
//! receiver = "console"
//! group_by = ["alertname", "service.name"]
//! [[route.routes]]
//! match = ['severity = "page"', 'team =~ "web|db"']
//! receiver = "oncall"
//! ```
//! Depth first: the first child that matches takes the alert, further siblings see it only after
//! `continue = true`; where no child matches, the node itself takes it. Children inherit
//! `receiver`, `group_by` and the three times. `group_by = ["..."]` groups by all labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use weir_pipeline::config::{Duration, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, nearest};

use super::matcher::Matcher;
use crate::notify::{Channel, Target, console, email, pagerduty, slack, webhook};

/// The receiver that is always there.
pub const CONSOLE: &str = "console";

const SECOND: i64 = 1_000_000_000;
const GROUP_WAIT: i64 = 10 * SECOND;
const GROUP_INTERVAL: i64 = 5 * 60 * SECOND;
const REPEAT_INTERVAL: i64 = 4 * 3600 * SECOND;
const STALE_AFTER: i64 = 10 * 60 * SECOND;
/// Shortest `group_interval` and `repeat_interval`: below it a failing receiver would keep the
/// log busy all the time.
const INTERVAL_MIN: i64 = SECOND / 10;
/// Deepest routing tree.
const DEPTH_MAX: usize = 16;

/// What the router goes by. Equal configurations route alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterConfig {
    /// Targets by receiver name.
    pub(crate) receivers: BTreeMap<String, Vec<Target>>,
    /// The root.
    pub(crate) route: Route,
    /// Age past which a transition is held back, nanoseconds, until its pipeline has caught up or
    /// has said nothing for as long: if it resolves meanwhile, it is recorded and not sent.
    pub(crate) stale_after: i64,
}

/// By which labels alerts are grouped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GroupBy {
    /// By all.
    All,
    /// By these, where an alert has them.
    Labels(BTreeSet<String>),
}

/// A node of the tree, with everything it inherits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// `{}/{severity="page"}`: the matchers on the way, the same over reloads.
    pub(crate) id: String,
    matchers: Vec<Matcher>,
    pub(crate) receiver: String,
    group_by: GroupBy,
    pub(crate) group_wait: i64,
    pub(crate) group_interval: i64,
    pub(crate) repeat_interval: i64,
    go_on: bool,
    routes: Vec<Self>,
}

impl Route {
    /// The nodes that take an alert with these labels, in order.
    pub(crate) fn find<'a>(&'a self, labels: &BTreeMap<String, String>) -> Vec<&'a Self> {
        if !self.matchers.iter().all(|m| m.matches(labels)) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for child in &self.routes {
            let taken = child.find(labels);
            let stop = !taken.is_empty() && !child.go_on;
            found.extend(taken);
            if stop {
                break;
            }
        }
        if found.is_empty() {
            found.push(self);
        }
        found
    }

    /// The labels by which an alert is grouped here.
    pub(crate) fn group_labels(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        match &self.group_by {
            GroupBy::All => labels.clone(),
            GroupBy::Labels(names) => labels
                .iter()
                .filter(|(k, _)| names.contains(*k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        }
    }

    /// The node with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Self> {
        if self.id == id {
            return Some(self);
        }
        self.routes.iter().find_map(|r| r.by_id(id))
    }
}

/// Alertmanager's group key: the route, then the group labels.
pub(crate) fn group_key(route: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(k, v)| {
            format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
        })
        .collect();
    format!("{route}:{{{}}}", labels.join(", "))
}

/// `[receivers.<name>]` as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReceiverConfig {
    /// Standard output.
    #[serde(default)]
    console: OneOrMany<console::Config>,
    /// Mail.
    #[serde(default)]
    email: OneOrMany<email::Config>,
    /// PagerDuty Events v2.
    #[serde(default)]
    pagerduty: OneOrMany<pagerduty::Config>,
    /// Slack.
    #[serde(default)]
    slack: OneOrMany<slack::Config>,
    /// Alertmanager's JSON.
    #[serde(default)]
    webhook: OneOrMany<webhook::Config>,
}

/// `[route]` as written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RootConfig {
    /// Who gets what no child takes (default `console`).
    receiver: Option<Spanned<String>>,
    /// Labels that make a group (default `alertname`).
    group_by: Option<Spanned<Vec<String>>>,
    /// How long a new group waits for more (default 10 s).
    group_wait: Option<Spanned<Duration>>,
    /// How long a group that was sent waits before a change is sent (default 5 min).
    group_interval: Option<Spanned<Duration>>,
    /// After what time an unchanged group is sent again (default 4 h).
    repeat_interval: Option<Spanned<Duration>>,
    /// Age past which a transition waits until its pipeline has caught up (or has said nothing
    /// for as long), and is not sent if it resolves meanwhile (default 10 min).
    stale_after: Option<Duration>,
    /// Children.
    #[serde(default)]
    routes: Vec<Spanned<ChildConfig>>,
}

/// `[[route.routes]]` as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChildConfig {
    /// Alertmanager matchers that must all fit.
    #[serde(default)]
    r#match: Vec<Spanned<String>>,
    /// Whether siblings after this one see the alert too.
    #[serde(default)]
    r#continue: bool,
    /// Default: that of the parent.
    receiver: Option<Spanned<String>>,
    /// Default: that of the parent.
    group_by: Option<Spanned<Vec<String>>>,
    /// Default: that of the parent.
    group_wait: Option<Spanned<Duration>>,
    /// Default: that of the parent.
    group_interval: Option<Spanned<Duration>>,
    /// Default: that of the parent.
    repeat_interval: Option<Spanned<Duration>>,
    /// Children.
    #[serde(default)]
    routes: Vec<Spanned<ChildConfig>>,
}

/// One table, or a list of them.
#[derive(Debug)]
struct OneOrMany<T>(Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table or a list of tables")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq))
            }
        }
        deserializer.deserialize_any(Either(PhantomData)).map(Self)
    }
}

impl Default for RouterConfig {
    /// Everything to the console.
    fn default() -> Self {
        Self {
            receivers: BTreeMap::from([(CONSOLE.to_owned(), vec![console_target()])]),
            route: Route {
                id: "{}".to_owned(),
                matchers: Vec::new(),
                receiver: CONSOLE.to_owned(),
                group_by: GroupBy::Labels(BTreeSet::from(["alertname".to_owned()])),
                group_wait: GROUP_WAIT,
                group_interval: GROUP_INTERVAL,
                repeat_interval: REPEAT_INTERVAL,
                go_on: false,
                routes: Vec::new(),
            },
            stale_after: STALE_AFTER,
        }
    }
}

fn console_target() -> Target {
    Target {
        id: "console/console:stdout".to_owned(),
        receiver: CONSOLE.to_owned(),
        send_resolved: true,
        channel: Channel::Console,
    }
}

impl RouterConfig {
    /// What `[receivers.*]` and `[route]` of `weir.toml` say. Pure.
    ///
    /// # Errors
    /// All mistakes.
    pub fn plan(receivers: &[Section], route: Option<&Section>) -> Result<Self, Diagnostics> {
        let mut problems = Diagnostics::default();
        let mut config = Self::default();
        for section in receivers {
            if let Some(targets) = problems.ok(receiver(section)) {
                config.receivers.insert(section.id.clone(), targets);
            } else {
                // Routes to it are not mistakes of their own.
                config.receivers.entry(section.id.clone()).or_default();
            }
        }
        // With mistakes in its shape too: what else is wrong shows.
        let root = route.map(|section| (section, section.read_loosely::<RootConfig>()));
        if let Some((section, (root, wrong))) = root {
            problems.0.extend(wrong.0);
            let root = root.unwrap_or_default();
            config.stale_after = root.stale_after.map_or(STALE_AFTER, Duration::nanos);
            let names: Vec<String> = config.receivers.keys().cloned().collect();
            let mut planner = Planner { section, receivers: &names, problems: &mut problems };
            config.route = planner.root(root, config.route);
        }
        if problems.has_errors() { Err(problems) } else { Ok(config) }
    }

    /// Names of the receivers.
    pub fn receivers(&self) -> impl Iterator<Item = &str> {
        self.receivers.keys().map(String::as_str)
    }
}

fn receiver(section: &Section) -> Result<Vec<Target>, Diagnostics> {
    let config: ReceiverConfig = section.read()?;
    let mut problems = Diagnostics::default();
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |kind: &str, planned, send_resolved: Option<bool>| {
        let Some((channel, destination)) = problems.ok(planned) else { return };
        let id = format!("{}/{kind}:{destination}", section.id);
        if targets.iter().any(|t| t.id == id) {
            let message = format!("receiver `{}` has this `{kind}` twice", section.id);
            problems.push(Diagnostic::error("W155", message).at(&section.header));
            return;
        }
        let send_resolved = send_resolved.unwrap_or(true);
        targets.push(Target { id, receiver: section.id.clone(), send_resolved, channel });
    };
    for c in &config.console.0 {
        add("console", Ok(c.plan()), c.send_resolved);
    }
    for c in &config.email.0 {
        add("email", c.plan(section), c.send_resolved);
    }
    for c in &config.pagerduty.0 {
        add("pagerduty", c.plan(section), c.send_resolved);
    }
    for c in &config.slack.0 {
        add("slack", c.plan(section), c.send_resolved);
    }
    for c in &config.webhook.0 {
        add("webhook", c.plan(section), c.send_resolved);
    }
    if targets.is_empty() && !problems.has_errors() {
        let message = format!("receiver `{}` sends nowhere", section.id);
        let hint = "give it `slack`, `email`, `pagerduty`, `webhook` or `console`";
        problems.push(Diagnostic::error("W155", message).at(&section.header).hint(hint));
    }
    if problems.has_errors() { Err(problems) } else { Ok(targets) }
}

struct Planner<'a> {
    section: &'a Section,
    receivers: &'a [String],
    problems: &'a mut Diagnostics,
}

impl Planner<'_> {
    fn root(&mut self, config: RootConfig, mut route: Route) -> Route {
        self.common(
            &mut route,
            config.receiver.as_ref(),
            config.group_by.as_ref(),
            [&config.group_wait, &config.group_interval, &config.repeat_interval],
        );
        route.routes = self.children(&route, config.routes, 1);
        route
    }

    fn children(
        &mut self,
        parent: &Route,
        children: Vec<Spanned<ChildConfig>>,
        depth: usize,
    ) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        for spanned in children {
            let place = self.section.span(&spanned);
            let child = spanned.value;
            if depth > DEPTH_MAX {
                let message = format!("routes are nested more than {DEPTH_MAX} deep");
                self.problems.push(Diagnostic::error("W156", message).at(&place));
                continue;
            }
            let matchers: Vec<Matcher> =
                child.r#match.iter().filter_map(|m| self.matcher(m)).collect();
            let text: Vec<String> = matchers.iter().map(ToString::to_string).collect();
            let mut id = format!("{}/{{{}}}", parent.id, text.join(","));
            let twins = routes.iter().filter(|r| r.matchers == matchers).count();
            if twins > 0 {
                id = format!("{id}#{}", twins + 1);
            }
            let mut route = Route {
                id,
                matchers,
                go_on: child.r#continue,
                routes: Vec::new(),
                ..parent.clone()
            };
            self.common(
                &mut route,
                child.receiver.as_ref(),
                child.group_by.as_ref(),
                [&child.group_wait, &child.group_interval, &child.repeat_interval],
            );
            route.routes = self.children(&route, child.routes, depth + 1);
            routes.push(route);
        }
        routes
    }

    fn matcher(&mut self, text: &Spanned<String>) -> Option<Matcher> {
        match Matcher::parse(&text.value) {
            Ok(matcher) => Some(matcher),
            Err(e) => {
                let place = self.section.text(text).locate(e.range);
                let message = format!("not a matcher: `{}`", text.value);
                let problem = Diagnostic::error("W156", message).at(&place).label(e.message);
                self.problems.push(problem.hint("write `severity = \"page\"`, `!=`, `=~` or `!~`"));
                None
            }
        }
    }

    fn common(
        &mut self,
        route: &mut Route,
        receiver: Option<&Spanned<String>>,
        group_by: Option<&Spanned<Vec<String>>>,
        times: [&Option<Spanned<Duration>>; 3],
    ) {
        if let Some(name) = receiver {
            if !self.receivers.contains(&name.value) {
                let message = format!("there is no receiver `{}`", name.value);
                let mut problem = Diagnostic::error("W156", message).at(&self.section.span(name));
                if let Some(near) = nearest(&name.value, self.receivers.iter().map(String::as_str))
                {
                    problem = problem.label(format!("did you mean `{near}`?"));
                }
                let all = self.receivers.join("`, `");
                self.problems.push(problem.hint(format!("receivers are `{all}`")));
            }
            route.receiver.clone_from(&name.value);
        }
        if let Some(names) = group_by {
            let set: BTreeSet<String> = names.value.iter().cloned().collect();
            let all = set.contains("...");
            let message = if set.len() < names.value.len() {
                Some("a label stands twice in `group_by`")
            } else if all && set.len() > 1 {
                Some("`...` in `group_by` means all labels and stands alone")
            } else {
                None
            };
            if let Some(message) = message {
                self.problems
                    .push(Diagnostic::error("W156", message).at(&self.section.span(names)));
            }
            route.group_by = if all { GroupBy::All } else { GroupBy::Labels(set) };
        }
        let fields = [&mut route.group_wait, &mut route.group_interval, &mut route.repeat_interval];
        for (i, (field, time)) in fields.into_iter().zip(times).enumerate() {
            let Some(time) = time else { continue };
            *field = time.value.nanos();
            if i > 0 && *field < INTERVAL_MIN {
                let message = "the interval is below 100 ms";
                self.problems.push(Diagnostic::error("W156", message).at(&self.section.span(time)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
