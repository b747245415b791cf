//! From the parts of a file to what was proved: sources, and the graph of a pipeline in
//! topological order.

mod lookups;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::DataType;
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use self::lookups::FileLookups;
use super::bundle::Bundle;
use super::cases;
use super::check::{Checked, one_of};
use super::file::{ERRORS_ID, Group, Part, PipelineFile, ROUTER_ID};
use super::section::{Input, Scope, Section};
use super::tree;
use crate::backlog::Backlog;
use crate::component::{Components, Kind, OperatorKind, OutputPlan};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span, nearest};
use crate::edge::{ERROR_COLUMNS, ERRORS, Edge};
use crate::lookup::{Tables, Versions};
use crate::plan::{
    InputPlan, NodePlan, OnError, PipelinePlan, SourceDefinition, Work, sources_read,
};
use crate::signal::Signal;

/// Mistakes within one expression, template or program, whatever stands beside it.
const WITHIN_A_VALUE: [&str; 14] = [
    "W030", "W085", "W160", "W161", "W162", "W164", "W301", "W302", "W303", "W304", "W305", "W306",
    "W307", "W308",
];

/// The output of late rows; nobody has to read it.
const LATE: &str = "late";

/// A file version being planned.
pub(crate) struct Planner<'a> {
    pub(crate) components: &'a Components,
    /// Files by path as shown, where they do not come from the disk.
    pub(crate) given: Option<Arc<BTreeMap<String, String>>>,
    pub(crate) file: &'a PipelineFile,
    /// Where lookup tables come from.
    tables: &'a Tables,
    versions: Versions,
    /// The lookups of the file, see [`Planner::lookups`].
    lookups: FileLookups,
    pub(crate) wrong: Diagnostics,
    /// Bytes of the file that hold a secret in clear.
    pub(crate) secrets: Vec<Range<usize>>,
    /// All that this file was planned from.
    pub(crate) bundle: Bundle,
}

/// A source as others see it.
pub(crate) struct SourceInfo {
    /// `None` if it could not be planned: then any output may exist.
    pub(crate) outputs: Option<Vec<OutputPlan>>,
    pub(crate) definition: Option<Arc<SourceDefinition>>,
    pub(crate) place: Span,
}

/// What came of a pipeline.
pub(crate) struct Planned {
    pub(crate) pipeline: Option<PipelinePlan>,
    /// Outputs of sources that it reads, `id` or `id.output`.
    pub(crate) reads: BTreeSet<String>,
    /// Inputs that name a source that nobody defines, and where.
    pub(crate) unknown: Vec<(String, Span)>,
}

struct Proved<P: ?Sized> {
    plan: Box<P>,
    config: Map<String, Json>,
    bundle: Bundle,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        components: &'a Components,
        given: Option<Arc<BTreeMap<String, String>>>,
        (tables, versions): (&'a Tables, Versions),
        file: &'a PipelineFile,
    ) -> Self {
        let text = &file.text;
        let files = [(text.path.display().to_string(), text.text.clone())].into();
        let bundle = Bundle { files, environment: file.used.clone(), ..Bundle::default() };
        Self {
            components,
            given,
            file,
            tables,
            versions,
            lookups: FileLookups::default(),
            wrong: Diagnostics::default(),
            secrets: Vec::new(),
            bundle,
        }
    }

    fn error(&mut self, code: &'static str, message: String, at: &Span) {
        self.wrong.push(Diagnostic::error(code, message).at(at));
    }

    /// The row of the table for the `type` of a part.
    fn kind<P: ?Sized>(
        &mut self,
        table: &'static [Kind<P>],
        part: &Part,
    ) -> Option<&'static Kind<P>> {
        let owner = &part.section.owner;
        let Some((name, at)) = &part.kind else {
            let missing = Diagnostic::error("W011", format!("{owner} needs `type`"))
                .at(&part.section.header)
                .hint("`weir list` shows every type");
            self.wrong.push(missing);
            return None;
        };
        if name.is_empty() {
            return None; // not a text, which is reported already
        }
        let found = table.iter().find(|k| k.name == name);
        if found.is_none() {
            let names = || table.iter().map(|k| k.name);
            let what = part.group.what();
            let unknown = Diagnostic::error("W010", format!("no {what} has the type `{name}`"))
                .at(at)
                .label(match nearest(name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("expected {}", one_of(names())),
                })
                .hint("`weir list` shows every type");
            self.wrong.push(unknown);
        }
        found
    }

    /// Checks and plans one section. With mistakes that leave its meaning clear it is planned
    /// all the same, so that what else is wrong shows too.
    fn prove<P: ?Sized>(
        &mut self,
        kind: &Kind<P>,
        section: &Section,
        inputs: Vec<Input>,
        assumed: bool,
    ) -> Option<Proved<P>> {
        let Checked { table, wrong, usable, guessed, used, secrets } =
            section.check(&(kind.schema)());
        self.secrets.extend(secrets);
        let faulty: Vec<Span> = wrong.0.iter().filter_map(|d| d.span.clone()).collect();
        self.wrong.0.extend(wrong.0);
        if !usable {
            return None;
        }
        let section = Section { table, environment: None, ..section.clone() };
        let base = self.file.text.path.parent().unwrap_or(std::path::Path::new(""));
        let scope = Scope::new(inputs, base.to_path_buf())
            .with_files(self.given.clone())
            .with_lookups(self.lookups.tables.clone());
        let mut result = (kind.plan)(&section, &scope);
        let warnings = scope.take_warnings();
        if guessed && let Err(wrong) = &mut result {
            // Some values are not those of the author: only what is wrong within another value
            // is surely wrong.
            let told = |d: &Diagnostic| {
                d.span.as_ref().is_none_or(|at| faulty.iter().any(|f| f.overlaps(at)))
            };
            wrong.0.retain(|d| WITHIN_A_VALUE.contains(&d.code) && !told(d));
        }
        if !assumed && !guessed {
            self.wrong.0.extend(warnings);
        }
        let files: BTreeMap<String, String> = scope
            .take_files()
            .iter()
            .map(|f| (f.path.display().to_string(), f.text.clone()))
            .collect();
        let lookups = scope.take_looked_into().into_iter().filter_map(|id| {
            let key = self.lookups.definitions.get(&id)?.key.clone();
            Some((key, self.lookups.tables.get(&id)?.version().to_string()))
        });
        let bundle = Bundle { files, environment: used, lookups: lookups.collect() };
        // Also of a part that fails: what it names is watched.
        self.bundle.merge(&bundle);
        let plan = self.wrong.ok(result)?;
        faulty.is_empty().then(|| Proved { plan, config: section.table.to_json(), bundle })
    }

    /// Plans the sources of the file.
    pub(crate) fn sources(&mut self) -> BTreeMap<String, SourceInfo> {
        let file = self.file;
        let mut found = BTreeMap::new();
        for part in file.parts.iter().filter(|p| p.group == Group::Source) {
            let id = &part.section.id;
            let place = part.section.header.clone();
            let mut info = SourceInfo { outputs: None, definition: None, place };
            if let Some(kind) = self.kind(self.components.sources, part)
                && let Some(proved) = self.prove(kind, &part.section, Vec::new(), false)
            {
                let text = &file.text;
                let mut bundle = proved.bundle;
                bundle.environment.extend(file.used.clone());
                let resolved = canonical(&[
                    ("type", kind.name.into()),
                    ("config", Json::Object(proved.config)),
                    ("files", named(&bundle.files)),
                ]);
                bundle.files.insert(text.path.display().to_string(), text.text.clone());
                info.outputs = Some(proved.plan.outputs());
                info.definition = Some(Arc::new(SourceDefinition {
                    id: id.as_str().into(),
                    kind: kind.name,
                    plan: proved.plan.into(),
                    resolved,
                    bundle,
                    header: part.section.header.clone(),
                }));
            }
            found.insert(id.clone(), info);
        }
        found
    }

    /// Plans the pipeline of the file; `sources` are those of all files.
    pub(crate) fn pipeline(&mut self, sources: &BTreeMap<String, SourceInfo>) -> Planned {
        let mut planned = self.pipeline_of(sources);
        if let Some(plan) = &mut planned.pipeline {
            plan.test_nodes = self.test_nodes(plan, sources);
            plan.guessed = self.guessed(plan);
        }
        planned
    }

    fn pipeline_of(&mut self, sources: &BTreeMap<String, SourceInfo>) -> Planned {
        let file = self.file;
        let parts: Vec<&Part> = file.parts.iter().filter(|p| p.group.is_node()).collect();
        self.distinct(&parts, sources);
        let mut graph = Graph { parts: &parts, sources, planned: Planned::nothing() };
        let links: Vec<Vec<Link>> = parts.iter().map(|p| graph.links(self, p)).collect();
        let order = self.order(&parts, &links);
        let mut nodes: Vec<NodePlan> = Vec::new();
        let mut outputs: BTreeMap<usize, Outputs> = BTreeMap::new();
        let mut place: BTreeMap<usize, usize> = BTreeMap::new();
        for index in order {
            let part = parts[index];
            let mut inputs = Vec::new();
            let mut plans = Vec::new();
            let mut assumed = false;
            for link in &links[index] {
                let edge = match &link.from {
                    Origin::Source(id) => graph.source_edge(self, part, id, link),
                    Origin::Node(node) => match outputs.get(node) {
                        Some(known) => self.node_edge(part, link, known),
                        None => Some((assumed_edge(None), true)),
                    },
                    Origin::Unknown => Some((assumed_edge(None), true)),
                };
                let Some((edge, guess)) = edge else {
                    assumed = true;
                    inputs.push(Input { name: link.name.clone(), edge: assumed_edge(None) });
                    continue;
                };
                assumed |= guess;
                inputs.push(Input { name: link.name.clone(), edge });
                let output: Arc<str> = link.output.as_str().into();
                match &link.from {
                    Origin::Source(id) => {
                        plans.push(InputPlan::Source { source: id.as_str().into(), output });
                    }
                    Origin::Node(node) => {
                        let node = place.get(node).copied().unwrap_or_default();
                        plans.push(InputPlan::Node { node, output });
                    }
                    Origin::Unknown => {}
                }
            }
            let first = inputs.first().map(|i| i.edge.clone());
            let proved = self.work(part, inputs, assumed);
            let owner = || part.section.owner.clone();
            let listed = proved.as_ref().map(|(_, outputs, ..)| (outputs.clone(), owner()));
            outputs.insert(index, Outputs { listed, first });
            if let Some((work, _, kind, resolved)) = proved {
                place.insert(index, nodes.len());
                nodes.push(NodePlan {
                    id: part.section.id.as_str().into(),
                    was: part.was.clone(),
                    kind,
                    backlog: part.backlog.resolve(work.past_backlog()),
                    work,
                    inputs: plans,
                    on_error: part.on_error,
                    resolved,
                    header: part.section.header.clone(),
                });
            }
        }
        self.unread(&parts, &links, &outputs);
        let unknown: Vec<String> = graph.planned.unknown.iter().map(|(id, _)| id.clone()).collect();
        let tests = self.tests(&parts, sources, &outputs, &unknown);
        self.implicit(&mut nodes);
        let mut planned = graph.planned;
        if !self.wrong.has_errors() && !nodes.is_empty() {
            planned.pipeline = Some(self.finish(nodes, tests, sources));
        }
        planned
    }

    /// Ids are distinct in the file, and none is that of a source.
    fn distinct(&mut self, parts: &[&Part], sources: &BTreeMap<String, SourceInfo>) {
        for (i, part) in parts.iter().enumerate() {
            let id = &part.section.id;
            let other = parts[..i].iter().find(|p| p.section.id == *id);
            let other = other.map(|p| (p.section.header.clone(), p.section.owner.clone()));
            let source = || Some((sources.get(id)?.place.clone(), format!("source `{id}`")));
            if let Some((place, owner)) = other.or_else(source) {
                let message = format!("{} has the id of another part", part.section.owner);
                let taken = Diagnostic::error("W022", message)
                    .at(&part.section.header)
                    .label("ids are distinct within a file, and from those of all sources")
                    .related(&place, format!("{owner} is here"));
                self.wrong.push(taken);
            }
        }
    }

    /// Topological, in the order of the file where that is free. Parts on a circle are reported
    /// and left out.
    fn order(&mut self, parts: &[&Part], links: &[Vec<Link>]) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        let mut left: BTreeSet<usize> = (0..parts.len()).collect();
        while let Some(next) = left.iter().copied().find(|i| {
            links[*i].iter().all(|l| !matches!(l.from, Origin::Node(n) if left.contains(&n)))
        }) {
            left.remove(&next);
            order.push(next);
        }
        // Whatever is left is on a circle or below one.
        let mut reported: BTreeSet<usize> = BTreeSet::new();
        for start in left.iter().copied() {
            let mut path = vec![start];
            let circle = loop {
                let last = path[path.len() - 1];
                let above = links[last].iter().find_map(|l| match l.from {
                    Origin::Node(n) if left.contains(&n) => Some(n),
                    _ => None,
                });
                let Some(above) = above else { break &[][..] };
                if let Some(at) = path.iter().position(|n| *n == above) {
                    break &path[at..];
                }
                path.push(above);
            };
            if circle.is_empty() || circle.iter().any(|n| reported.contains(n)) {
                continue;
            }
            reported.extend(circle);
            // The path goes against the flow; people read along it.
            let least = circle.iter().position(|n| Some(n) == circle.iter().min()).unwrap_or(0);
            let mut names: Vec<&str> = (0..=circle.len())
                .map(|i| parts[circle[(least + i) % circle.len()]].section.id.as_str())
                .collect();
            names.reverse();
            let first = parts[circle[least]];
            let at = first.inputs.first().map_or(&first.section.header, |(_, at)| at);
            self.error("W026", format!("inputs go in a circle: `{}`", names.join("` -> `")), at);
        }
        order
    }

    fn node_edge(&mut self, part: &Part, link: &Link, known: &Outputs) -> Option<(Edge, bool)> {
        if link.output == ERRORS {
            return Some((errors_edge(known.first.as_ref()), known.listed.is_none()));
        }
        let Some((outputs, owner)) = &known.listed else {
            return Some((assumed_edge(known.first.as_ref()), true));
        };
        let found = outputs.iter().find(|o| o.name == link.output);
        if found.is_none() {
            let names = outputs.iter().map(|o| full(&link.id, o.name));
            let mut names: Vec<String> = names.collect();
            names.push(full(&link.id, ERRORS));
            self.unknown_output(part, link, owner, &names);
        }
        found.map(|o| (o.edge.clone(), false))
    }

    fn unknown_output(&mut self, part: &Part, link: &Link, owner: &str, names: &[String]) {
        let problem = if link.output.is_empty() {
            format!("{owner} has no main output")
        } else {
            format!("{owner} has no output `{}`", link.output)
        };
        let label = match nearest(&link.name, names.iter().map(String::as_str)) {
            Some(near) if !link.output.is_empty() => format!("did you mean `{near}`?"),
            _ => format!("expected {}", one_of(names)),
        };
        let message = format!("{}: {problem}", part.section.owner);
        self.wrong.push(Diagnostic::error("W024", message).at(&link.at).label(label));
    }

    fn work(
        &mut self,
        part: &Part,
        inputs: Vec<Input>,
        assumed: bool,
    ) -> Option<(Work, Vec<OutputPlan>, &'static str, String)> {
        let components = self.components;
        let operator = |planner: &mut Self, kind: &'static OperatorKind| {
            let proved = planner.prove(kind, &part.section, inputs.clone(), assumed)?;
            let resolved = resolved(part, kind.name, proved.config, &proved.bundle);
            Some((proved.plan, kind.name, resolved))
        };
        match part.group {
            Group::Operator => {
                let kind = self.kind(components.operators, part)?;
                let (plan, kind, resolved) = operator(self, kind)?;
                let outputs = plan.outputs();
                Some((Work::Operator(plan.into()), outputs, kind, resolved))
            }
            Group::Alert => {
                let (plan, kind, resolved) = operator(self, components.alert)?;
                let outputs = plan.outputs();
                Some((Work::Alert(plan.into()), outputs, kind, resolved))
            }
            Group::Sink => {
                let kind = self.kind(components.sinks, part)?;
                let proved = self.prove(kind, &part.section, inputs, assumed)?;
                let resolved = resolved(part, kind.name, proved.config, &proved.bundle);
                Some((Work::Sink(proved.plan.into()), Vec::new(), kind.name, resolved))
            }
            Group::Source | Group::Lookup => None,
        }
    }

    /// Outputs of operators that nobody reads.
    fn unread(&mut self, parts: &[&Part], links: &[Vec<Link>], outputs: &BTreeMap<usize, Outputs>) {
        for (index, known) in outputs {
            let Some((listed, owner)) = &known.listed else { continue };
            if parts[*index].group != Group::Operator {
                continue;
            }
            for output in listed.iter().filter(|o| o.name != LATE) {
                let read = links.iter().flatten().any(|l| {
                    matches!(l.from, Origin::Node(n) if n == *index) && l.output == output.name
                });
                if !read {
                    let name = full(&parts[*index].section.id, output.name);
                    let message = format!("nobody reads `{name}`, an output of {owner}");
                    let unread = Diagnostic::warning("W027", message)
                        .at(&parts[*index].section.header)
                        .hint(format!("add a sink with `inputs = [\"{name}\"]`"));
                    self.wrong.push(unread);
                }
            }
        }
    }

    fn tests(
        &mut self,
        parts: &[&Part],
        sources: &BTreeMap<String, SourceInfo>,
        outputs: &BTreeMap<usize, Outputs>,
        unknown: &[String],
    ) -> Vec<crate::plan::TestPlan> {
        let node = |id: &str, output: &str| -> Option<Result<(), Vec<String>>> {
            let index = parts.iter().position(|p| p.section.id == id)?;
            if parts[index].group == Group::Sink {
                return Some(Err(Vec::new()));
            }
            let Some((listed, _)) = outputs.get(&index).and_then(|o| o.listed.as_ref()) else {
                return Some(Ok(()));
            };
            let good = output == ERRORS || listed.iter().any(|o| o.name == output);
            let names = || listed.iter().map(|o| full(id, o.name)).collect();
            Some(if good { Ok(()) } else { Err(names()) })
        };
        let said = |name: &str, result: Option<Result<(), Vec<String>>>| match result {
            Some(Ok(())) => None,
            Some(Err(names)) if names.is_empty() => Some(format!("`{name}` has no outputs")),
            Some(Err(names)) => {
                Some(format!("there is no output `{name}`, expected {}", one_of(names)))
            }
            None => Some(format!("there is no `{name}`")),
        };
        let output = |name: &str| {
            let (id, output) = split(name);
            said(name, node(id, output))
        };
        let input = |name: &str| {
            let (id, output) = split(name);
            if unknown.iter().any(|u| u == id) {
                return None; // said at the part that reads it
            }
            let source = sources.get(id).map(|s| match &s.outputs {
                None => Ok(()),
                Some(listed) if listed.iter().any(|o| o.name == output) => Ok(()),
                Some(listed) => Err(listed.iter().map(|o| full(id, o.name)).collect()),
            });
            said(name, source.or_else(|| node(id, output)))
        };
        let mut tests = Vec::new();
        for section in &self.file.tests {
            tests.extend(self.wrong.ok(cases::read(section, input, output)));
        }
        tests
    }

    /// What the engine adds: the way of alerts to the router, and of unread errors to a table.
    fn implicit(&mut self, nodes: &mut Vec<NodePlan>) {
        let errors = |i| InputPlan::Node { node: i, output: ERRORS.into() };
        let outputs = |i: usize| match &nodes[i].work {
            Work::Alert(p) => p.outputs(),
            _ => Vec::new(),
        };
        let of = |i: usize| move |o: OutputPlan| InputPlan::Node { node: i, output: o.name.into() };
        let alerts: Vec<InputPlan> =
            (0..nodes.len()).flat_map(|i| outputs(i).into_iter().map(of(i))).collect();
        let read: BTreeSet<usize> = nodes
            .iter()
            .flat_map(|n| &n.inputs)
            .filter_map(|i| match i {
                InputPlan::Node { node, output } if **output == *ERRORS => Some(*node),
                _ => None,
            })
            .collect();
        let unread = (0..nodes.len())
            .filter(|i| !matches!(nodes[*i].work, Work::Sink(_)) && !read.contains(i))
            .map(errors);
        let of_sources = sources_read(nodes)
            .into_iter()
            .map(|source| InputPlan::Source { source, output: ERRORS.into() })
            .filter(|input| !nodes.iter().any(|n| n.inputs.contains(input)));
        let unread: Vec<InputPlan> = of_sources.chain(unread).collect();
        let store = self.components.sinks.iter().find(|k| k.name == self.components.errors);
        let table = format!("table = \"{ERRORS_ID}\"\n");
        let wanted = [
            (ROUTER_ID, Some(self.components.router), String::new(), alerts),
            (ERRORS_ID, store, table, unread),
        ];
        for (id, kind, text, inputs) in wanted {
            let Some(kind) = kind.filter(|_| !inputs.is_empty()) else { continue };
            let file = Arc::new(SourceText { path: format!("<{id}>").into(), text });
            let (table, _) = tree::parse(&file);
            let section = Section {
                id: id.to_owned(),
                header: self.file.name_at.clone(),
                file,
                owner: format!("sink `{id}`"),
                kind: kind.name.to_owned(),
                table,
                environment: None,
                broken: Diagnostics::default(),
            };
            let mut edges = Vec::new();
            for input in &inputs {
                let (id, output, work) = match input {
                    InputPlan::Source { source, output } => (source, output, None),
                    InputPlan::Node { node, output } => {
                        (&nodes[*node].id, output, Some(&nodes[*node].work))
                    }
                };
                let edge = match work {
                    Some(Work::Alert(p)) if **output != *ERRORS => {
                        p.outputs().into_iter().find(|o| *o.name == **output).map(|o| o.edge)
                    }
                    _ => Some(errors_edge(None)),
                };
                let edge = edge.unwrap_or_else(|| assumed_edge(None));
                edges.push(Input { name: full(id, output), edge });
            }
            let names: Vec<Json> = edges.iter().map(|i| i.name.as_str().into()).collect();
            let Some(proved) = self.prove(kind, &section, edges, true) else { continue };
            let work = Work::Sink(proved.plan.into());
            nodes.push(NodePlan {
                id: id.into(),
                was: None,
                kind: kind.name,
                backlog: Backlog::with(work.past_backlog()),
                work,
                inputs,
                on_error: OnError::Reject,
                resolved: canonical(&[
                    ("type", kind.name.into()),
                    ("inputs", names.into()),
                    ("config", Json::Object(proved.config)),
                ]),
                header: self.file.name_at.clone(),
            });
        }
    }

    fn finish(
        &self,
        nodes: Vec<NodePlan>,
        tests: Vec<crate::plan::TestPlan>,
        sources: &BTreeMap<String, SourceInfo>,
    ) -> PipelinePlan {
        let mut bundle = self.bundle.clone();
        let mut hash = Sha256::new();
        for node in &nodes {
            let backlog = node.backlog.to_string();
            let was = node.was.as_deref().unwrap_or_default();
            for text in [&*node.id, was, &backlog, &node.resolved] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        let mut partitioned = BTreeMap::new();
        for source in sources_read(&nodes) {
            let definition = sources.get(&*source).and_then(|s| s.definition.as_ref());
            let Some(definition) = definition else { continue };
            for text in [&*definition.id, &definition.resolved] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            bundle.merge(&definition.bundle);
            let of = definition.plan.partitioned();
            partitioned.extend(of.map(|p| (definition.id.clone(), p)));
        }
        hash.update(self.file.backlog.to_string());
        let content = hex(&hash.finalize());
        let hash = Sha256::new().chain_update(&content).chain_update(&self.file.name);
        PipelinePlan {
            name: self.file.name.as_str().into(),
            path: self.file.text.path.clone(),
            hash: hex(&hash.finalize()),
            content,
            bundle,
            from: self.file.from,
            backlog: self.file.backlog,
            nodes,
            partitioned,
            tests,
            test_nodes: None,
            guessed: BTreeMap::new(),
        }
    }
}

/// Where an input comes from.
enum Origin {
    Source(String),
    Node(usize),
    /// Reported already.
    Unknown,
}

/// One entry of `inputs`.
struct Link {
    from: Origin,
    /// As written.
    name: String,
    id: String,
    output: String,
    at: Span,
}

/// What is known of the outputs of a node.
struct Outputs {
    /// The outputs, and whose they are; `None` if it could not be planned.
    listed: Option<(Vec<OutputPlan>, String)>,
    /// The edge of its first input.
    first: Option<Edge>,
}

struct Graph<'a> {
    parts: &'a [&'a Part],
    sources: &'a BTreeMap<String, SourceInfo>,
    planned: Planned,
}

impl Planned {
    fn nothing() -> Self {
        Self { pipeline: None, reads: BTreeSet::new(), unknown: Vec::new() }
    }
}

impl Graph<'_> {
    fn links(&mut self, planner: &mut Planner<'_>, part: &Part) -> Vec<Link> {
        part.inputs.iter().map(|(name, at)| self.link(planner, part, name, at)).collect()
    }

    fn link(&mut self, planner: &mut Planner<'_>, part: &Part, name: &str, at: &Span) -> Link {
        let (id, output) = split(name);
        let from = if self.sources.contains_key(id) {
            self.planned.reads.insert(name.to_owned());
            Origin::Source(id.to_owned())
        } else if let Some(node) = self.parts.iter().position(|p| p.section.id == id) {
            if self.parts[node].group == Group::Sink {
                let message = format!("{} reads sink `{id}`", part.section.owner);
                let label = "a sink has no outputs";
                planner.wrong.push(Diagnostic::error("W029", message).at(at).label(label));
                Origin::Unknown
            } else {
                Origin::Node(node)
            }
        } else {
            self.planned.unknown.push((id.to_owned(), at.clone()));
            let nodes = self.parts.iter().filter(|p| p.group != Group::Sink);
            let known: Vec<&str> = self
                .sources
                .keys()
                .map(String::as_str)
                .chain(nodes.map(|p| p.section.id.as_str()).filter(|i| *i != part.section.id))
                .collect();
            let message = format!("{}: there is no input `{id}`", part.section.owner);
            let mut unknown = Diagnostic::error("W023", message).at(at);
            if let Some(near) = nearest(id, known.iter().copied()) {
                unknown = unknown.label(format!("did you mean `{}`?", full(near, output)));
            }
            let sources: Vec<String> = self.sources.keys().cloned().collect();
            planner.wrong.push(unknown.hint(match sources.as_slice() {
                [] => "no file defines a source".to_owned(),
                some => format!("sources: `{}`", some.join("`, `")),
            }));
            Origin::Unknown
        };
        let (name, at) = (name.to_owned(), at.clone());
        Link { from, name, id: id.to_owned(), output: output.to_owned(), at }
    }

    fn source_edge(
        &self,
        planner: &mut Planner<'_>,
        part: &Part,
        id: &str,
        link: &Link,
    ) -> Option<(Edge, bool)> {
        let Some(outputs) = self.sources.get(id).and_then(|s| s.outputs.as_ref()) else {
            let signal = Signal::from_name(&link.output);
            return Some((Edge::open(signal), true));
        };
        if link.output == ERRORS {
            return Some((errors_edge(None), false));
        }
        let found = outputs.iter().find(|o| o.name == link.output);
        if found.is_none() {
            let names: Vec<String> = outputs.iter().map(|o| full(id, o.name)).collect();
            planner.unknown_output(part, link, &format!("source `{id}`"), &names);
        }
        found.map(|o| (o.edge.clone(), false))
    }
}

/// `id.output` as its two halves; the main output is "".
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn full(id: &str, output: &str) -> String {
    if output.is_empty() { id.to_owned() } else { format!("{id}.{output}") }
}

/// What may come from a part that could not be planned: anything, so that no mistake below it is
/// made up.
fn assumed_edge(first: Option<&Edge>) -> Edge {
    Edge::open(first.map_or_else(|| Signal::named("unknown"), |e| e.signal.clone()))
}

/// Rejected rows: what came in, with the reason beside it.
fn errors_edge(first: Option<&Edge>) -> Edge {
    let mut edge = first.cloned().unwrap_or_else(|| assumed_edge(None));
    edge.open = true;
    for name in ERROR_COLUMNS {
        edge.columns.insert(name.to_owned(), Some(DataType::Utf8));
    }
    edge
}

fn resolved(part: &Part, kind: &str, config: Map<String, Json>, bundle: &Bundle) -> String {
    let inputs: Vec<Json> = part.inputs.iter().map(|(n, _)| n.as_str().into()).collect();
    let on_error = match part.on_error {
        OnError::Reject => "reject",
        OnError::Keep => "keep",
    };
    let mut decides = vec![
        ("type", kind.into()),
        ("inputs", inputs.into()),
        ("on_error", on_error.into()),
        ("config", Json::Object(config)),
        ("files", named(&bundle.files)),
    ];
    if !bundle.lookups.is_empty() {
        decides.push(("lookups", named(&bundle.lookups)));
    }
    canonical(&decides)
}

fn named(files: &BTreeMap<String, String>) -> Json {
    Json::Object(files.iter().map(|(p, t)| (p.clone(), t.as_str().into())).collect())
}

/// JSON text with the keys of every object in order.
fn canonical(entries: &[(&str, Json)]) -> String {
    let mut value: Json = entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    value.sort_all_objects();
    value.to_string()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
