//! A folder of pipeline files and what is edited in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::determinism::random::Random;
use crate::durability::pipeline;

/// What can change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Edit {
    /// Another VRL program.
    Program,
    /// The program moves to a file of its own, or back.
    ProgramFile,
    /// Another window: its step, its length, its aggregates.
    Window,
    /// Every sink has another id.
    Sinks,
    /// A branch with a sink comes or goes.
    Branch,
    /// An alert comes, goes or has another name.
    Alert,
    /// A file comes.
    More,
    /// A file goes.
    Fewer,
    /// The file with the load has another name, or one that came.
    Rename,
    /// A window has another id, and takes over its state.
    Was,
    /// Other limits, another interval: behind the same sockets.
    Settings,
    /// Nothing but a comment.
    Comment,
}

impl Edit {
    pub(super) const ALL: [Self; 12] = [
        Self::Program,
        Self::ProgramFile,
        Self::Window,
        Self::Sinks,
        Self::Branch,
        Self::Alert,
        Self::More,
        Self::Fewer,
        Self::Rename,
        Self::Was,
        Self::Settings,
        Self::Comment,
    ];
}

/// How a file can be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Broken {
    Syntax,
    /// It was seen while it was written.
    Half,
    /// It was seen before anything was written to it.
    Empty,
    UnknownField,
    UnknownType,
    WrongType,
    Program,
    UnknownFunction,
    UnknownInput,
    Setting,
    /// A new file defines a source that there is.
    Double,
    /// A new file is wrong, and another one is right.
    BesideGood,
}

impl Broken {
    pub(super) const ALL: [Self; 12] = [
        Self::Syntax,
        Self::Half,
        Self::Empty,
        Self::UnknownField,
        Self::UnknownType,
        Self::WrongType,
        Self::Program,
        Self::UnknownFunction,
        Self::UnknownInput,
        Self::Setting,
        Self::Double,
        Self::BesideGood,
    ];
}

/// Files by name without `.toml`; those of programs with `.vrl`.
type Files = BTreeMap<String, String>;

/// What the files shall say.
pub(super) struct Folder {
    /// What [`Edit::Program`] makes of rows.
    pub(super) program: usize,
    in_file: bool,
    /// Counts edits, so that no two give the same.
    edits: usize,
    work: &'static str,
    sinks: usize,
    window: (usize, &'static str),
    branch: Option<usize>,
    alert: Option<usize>,
    was: bool,
    /// Name and what it was made as.
    more: BTreeMap<String, usize>,
    settings: usize,
    comment: usize,
    target: String,
    /// Tables that were ever written to.
    tables: BTreeSet<String>,
    /// As last written, and renamed since.
    written: Files,
    renamed: Vec<(String, String)>,
}

impl Folder {
    pub(super) fn new(target: &str) -> Self {
        Self {
            program: 0,
            in_file: false,
            edits: 0,
            work: "work",
            sinks: 0,
            window: (1, "count(*)"),
            branch: None,
            alert: None,
            was: false,
            more: BTreeMap::new(),
            settings: 0,
            comment: 0,
            target: target.to_owned(),
            tables: BTreeSet::new(),
            written: Files::new(),
            renamed: Vec::new(),
        }
    }

    pub(super) fn edit(&mut self, edit: Edit, random: &mut Random) {
        self.edits += 1;
        let n = self.edits;
        match edit {
            Edit::Program => self.program = n,
            Edit::ProgramFile => self.in_file = !self.in_file,
            Edit::Window => {
                let aggregates = ["count(*)", "sum(n)", "max(n) - min(n)", "quantile(n, 0.9)"];
                self.window = (1 + n % 5, *random.pick(&aggregates));
            }
            Edit::Sinks => self.sinks = n,
            Edit::Branch => self.branch = self.branch.is_none().then_some(n),
            Edit::Alert => self.alert = random.chance(70).then_some(n),
            Edit::More => {
                self.more.insert(format!("more_{n}"), n);
            }
            Edit::Fewer => {
                self.more.pop_first();
            }
            Edit::Rename => match self.more.pop_first().filter(|_| random.chance(50)) {
                Some((name, made)) => {
                    let new = format!("other_{n}");
                    self.renamed.push((name, new.clone()));
                    self.more.insert(new, made);
                }
                None => {
                    let new = if self.work == "work" { "moved" } else { "work" };
                    self.renamed.push((self.work.to_owned(), new.to_owned()));
                    self.work = new;
                }
            },
            Edit::Was => self.was = !self.was,
            Edit::Settings => self.settings = n,
            Edit::Comment => self.comment = n,
        }
    }

    /// Back to the name that other tests know.
    pub(super) fn settle(&mut self) {
        if self.work != "work" {
            self.renamed.push((self.work.to_owned(), "work".to_owned()));
            self.work = "work";
        }
        self.was = false;
    }

    fn work(&self) -> String {
        let sinks = format!("[sinks.s{}_", self.sinks);
        let mut text = pipeline(self.program, &self.further()).replace("[sinks.", &sinks);
        if self.in_file {
            let source = format!("source = \".edit = {}\"", self.program);
            text = text.replace(&source, "file = \"mark.vrl\"");
        }
        let (id, was) = if self.was { ("sums", "totals") } else { ("totals", "sums") };
        text = text
            .replace("[operators.totals]", &format!("[operators.{id}]\nwas = \"{was}\""))
            .replace("[operators.totals.", &format!("[operators.{id}."))
            .replace("\"totals\"", &format!("\"{id}\""))
            .replace("\"totals.late\"", &format!("\"{id}.late\""))
            // Undo what that did to the name of the table and to `was`.
            .replace(&format!("table = \"{id}\""), "table = \"totals\"")
            .replace(&format!("was = \"{id}\""), &format!("was = \"{was}\""));
        format!("# {}\n{text}", self.comment)
    }

    fn further(&self) -> String {
        let (every, aggregate) = self.window;
        let mut text = format!(
            "\n[operators.free]\ntype = \"window\"\ninputs = [\"mark\"]\nevery = \"{every}s\"\n\
             lateness = \"0s\"\n[operators.free.aggregate]\nit = \"{aggregate}\"\n\
             [sinks.free]\ntype = \"store\"\ninputs = [\"free\"]\ntable = \"free\"\n\
             [sinks.free_late]\ntype = \"store\"\ninputs = [\"free.late\"]\ntable = \"free_late\"\n"
        );
        if let Some(n) = self.branch {
            text += &format!(
                "[operators.branch]\ntype = \"filter\"\ninputs = [\"mark\"]\nwhere = \"n % 3 = 0\"\n\
                 [sinks.branch]\ntype = \"store\"\ninputs = [\"branch\"]\ntable = \"branch_{n}\"\n"
            );
        }
        if let Some(n) = self.alert {
            text += &format!(
                "[alerts.never_{n}]\ninputs = [\"totals\"]\nwhen = \"rows < 0\"\nsummary = \"never\"\n"
            );
        }
        text
    }

    fn sources(&self) -> String {
        let n = self.settings;
        format!(
            r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"
max_request_bytes = "{kib}KiB"

[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.2:0"
max_decompressed_bytes = "{kib}KiB"

[sources.syslog]
type = "syslog"
listen = "127.0.0.3:0"
protocol = "tcp"
max_message_bytes = "{kib}B"

[sources.datagrams]
type = "syslog"
listen = "127.0.0.4:0"
protocol = "udp"
max_message_bytes = "{kib}B"

[sources.scraped]
type = "prometheus_scrape"
targets = ["{target}"]
interval = "{interval}ms"
"#,
            kib = 2048 + n,
            target = self.target,
            interval = 500 + n % 7 * 10,
        )
    }

    /// All files.
    pub(super) fn files(&self) -> Files {
        let mut files = Files::from([
            ("sources".to_owned(), self.sources()),
            (self.work.to_owned(), self.work()),
        ]);
        let lines = ["lines", "datagrams", "scraped"].map(|table| {
            let input = match table {
                "lines" => "syslog.logs",
                "datagrams" => "datagrams.logs",
                _ => "scraped.metrics",
            };
            format!(
                "[sinks.{table}_table]\ntype = \"store\"\ninputs = [\"{input}\"]\ntable = \"{table}\"\n"
            )
        });
        files.insert("lines".to_owned(), lines.concat());
        if self.in_file {
            files.insert("mark.vrl".to_owned(), format!(".edit = {}\n", self.program));
        }
        for (name, made) in &self.more {
            let text = format!(
                "[operators.some]\ntype = \"filter\"\ninputs = [\"otlp.logs\"]\n\
                 where = \"n % 10 = 0\"\n\
                 [sinks.some_table]\ntype = \"store\"\ninputs = [\"some\"]\ntable = \"more_{made}\"\n"
            );
            files.insert(name.clone(), text);
        }
        files
    }

    /// Files that have another name now, to be renamed before anything is written.
    pub(super) fn renamed(&mut self) -> Vec<(String, String)> {
        let renamed = std::mem::take(&mut self.renamed);
        for (from, to) in &renamed {
            if let Some(text) = self.written.remove(from) {
                self.written.insert(to.clone(), text);
            }
        }
        renamed
    }

    /// What is to be written and to be removed; from then on it counts as done.
    pub(super) fn changes(&mut self) -> (Files, Vec<String>) {
        let all = self.files();
        let changed = all.iter().filter(|(n, t)| self.written.get(*n) != Some(t));
        let mut changed: Files = changed.map(|(n, t)| (n.clone(), t.clone())).collect();
        let gone: Vec<String> =
            self.written.keys().filter(|n| !all.contains_key(*n)).cloned().collect();
        // The program first: until its pipeline names it nobody reads it.
        if !self.in_file {
            changed.remove("mark.vrl");
        }
        let gone = gone.into_iter().filter(|n| !n.ends_with(".vrl")).collect();
        self.tables.extend(self.branch.map(|n| format!("branch_{n}")));
        self.tables.extend(self.more.values().map(|n| format!("more_{n}")));
        self.written = all;
        (changed, gone)
    }

    /// A file holds something else than was written.
    pub(super) fn forget(&mut self, file: &str) {
        self.written.insert(file.to_owned(), String::new());
    }

    /// Tables of which no row may be there twice.
    pub(super) fn tables(&self) -> BTreeSet<String> {
        self.tables.clone()
    }

    /// A file and what is wrong in it.
    pub(super) fn broken(&self, broken: Broken, random: &mut Random) -> (String, String) {
        let work = self.work();
        let of_work = |text: String| (self.work.to_owned(), text);
        let new = |text: &str| (format!("wrong_{}", self.edits), text.to_owned());
        match broken {
            Broken::Syntax => of_work(format!("{work}\n[operators.half")),
            Broken::Half => {
                // Within a text, which then has no end.
                let texts: Vec<usize> = work.match_indices("= \"").map(|(at, _)| at + 4).collect();
                of_work(work[..*random.pick(&texts)].to_owned())
            }
            Broken::Empty => of_work(String::new()),
            Broken::UnknownField => of_work(work.replacen("lateness", "latness", 1)),
            Broken::UnknownType => {
                of_work(work.replacen("type = \"window\"", "type = \"widow\"", 1))
            }
            Broken::WrongType => of_work(work.replacen("every = \"2s\"", "every = 2", 1)),
            Broken::Program => of_work(
                work.replace(".edit =", ".edit = nonsense( +")
                    .replace("file = \"mark.vrl\"", "file = \"no.vrl\""),
            ),
            Broken::UnknownFunction => of_work(work.replace("sum(n)", "no_such_function(n)")),
            Broken::UnknownInput => of_work(work.replacen("otlp.spans", "otlp.spams", 1)),
            Broken::Setting => {
                let text = self.sources().replacen("protocol = \"tcp\"", "protocol = \"tpc\"", 1);
                ("sources".to_owned(), text)
            }
            Broken::Double => new("[sources.otlp]\ntype = \"otlp\"\nhttp = \"127.0.0.9:0\"\n"),
            Broken::BesideGood => new("[sinks.wrong]\ntype = \"store\"\n"),
        }
    }
}
