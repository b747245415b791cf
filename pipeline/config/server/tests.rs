#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn read(
    text: &str,
    variables: &[(&str, &str)],
    flags: &Flags,
) -> Result<(ServerConfig, Diagnostics), Diagnostics> {
    let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let text = Arc::new(SourceText { path: "weir.toml".into(), text: text.to_owned() });
    let environment = Environment::Fixed(environment);
    let (config, (), warnings) =
        ServerConfig::from_text(text, &environment, flags, &|_, _| Ok(()))?;
    Ok((config, warnings))
}

/// Resolved values with their origins, warnings, or what is wrong.
#[track_caller]
fn check(text: &str, variables: &[(&str, &str)], flags: &Flags, expect: &str) {
    let got = match read(text, variables, flags) {
        Ok((config, warnings)) => {
            let all = config.explain();
            let lines = all.iter().filter(|e| e.origin != "default");
            let lines = lines.map(|e| format!("{} = {}  # {}\n", e.key, e.value, e.origin));
            lines.collect::<String>() + &warnings.to_string()
        }
        Err(wrong) => wrong.to_string(),
    };
    assert_eq!(got.trim(), expect.trim(), "\n{got}");
}

#[test]
fn flag_before_variable_before_file_before_default() {
    let flags = Flags { data: Some("/flag".into()), ..Flags::default() };
    let text = "[server]\nlisten = '127.0.0.1:1'\ndata = 'file'\nmemory = '2GiB'\nhosts = ['a']\n\
                [journal]\nretain = '1h'\n[tables.logs]\nretention = '30d'\n";
    let variables = [("WEIR_DATA", "/var"), ("WEIR_MEMORY", "64MiB")];
    check(
        text,
        &variables,
        &flags,
        r#"
server.listen = "127.0.0.1:1"  # `weir.toml:2`
server.data = "/flag"  # flag `--data`
server.memory = 64MiB  # variable `WEIR_MEMORY`
server.hosts = ["a"]  # `weir.toml:5`
journal.retain = 1h  # `weir.toml:7`
tables.logs.retention = "30d"  # `weir.toml:8`
"#,
    );
    let (config, _) = read("", &[], &Flags::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9347");
    assert_eq!(config.memory, ByteSize(1 << 30));
    assert_eq!(config.pipelines, PathBuf::from("pipelines.d"));
    assert_eq!(config.explain().len(), 12);
    assert!(config.watch);
    let variables = [("WEIR_WATCH", "false")];
    let (config, _) = read("", &variables, &Flags::default()).unwrap();
    assert!(!config.watch);
}

#[test]
fn the_outside_needs_tls_and_tokens() {
    check(
        "[server]\nlisten = '0.0.0.0:80'\n",
        &[],
        &Flags::default(),
        "error[W060]: `0.0.0.0:80` can be reached from outside, without TLS and tokens\n\
         hint: set `[server.tls]` and `[server.auth] tokens`, or `insecure = true`",
    );
    check(
        "[server]\ninsecure = true\n",
        &[("WEIR_LISTEN", "[::]:80")],
        &Flags::default(),
        "server.listen = \"[::]:80\"  # variable `WEIR_LISTEN`\n\
         server.insecure = true  # `weir.toml:2`\n\
         warning[W061]: `[::]:80` can be reached from outside, without TLS and tokens",
    );
    let safe = "[server]\nlisten = '0.0.0.0:80'\ntls = { cert = 'c', key = 'k' }\n\
                auth = { tokens = ['env:T'] }";
    assert!(read(safe, &[], &Flags::default()).unwrap().1.0.is_empty());
}

#[test]
fn every_mistake_is_said() {
    check(
        "[server]\nlissten = ':1'\nlisten = 'here'\n[jurnal]\n[server.auth]\ntokens = ['hunter2']\n",
        &[("WEIR_JOURNAL_RETAIN", "long")],
        &Flags::default(),
        r#"
error[W014]: server file: `server` has no field `lissten`
 --> weir.toml:2:1
  |
2 | lissten = ':1'
  | ^^^^^^^ did you mean `listen`?

error[W014]: server file has no field `jurnal`
 --> weir.toml:4:2
  |
4 | [jurnal]
  |  ^^^^^^ did you mean `journal`?

error[W019]: server file: `server.auth.tokens[0]`: not a reference to a secret
 --> weir.toml:6:11
  |
6 | tokens = ['*******']
  |           ^^^^^^^^^ expected `env:NAME` or `file:PATH`
  |
hint: a secret never stands in the file itself: put it into a variable or a file

error[W015]: `server.listen` cannot be `here`: invalid socket address syntax
 --> weir.toml:3:10
  |
3 | listen = 'here'
  |          ^^^^^^

error[W015]: variable `WEIR_JOURNAL_RETAIN` cannot be `long`: `long` is not a duration, expected a duration such as `"10s"` or `"1h30m"`
"#,
    );
}

#[test]
fn the_router_reads_its_own_sections() {
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Receiver {
        slack: Option<Spanned<Slack>>,
    }
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Slack {
        channel: Spanned<String>,
        token: Secret,
    }
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Route {
        receiver: Option<Spanned<String>>,
        #[serde(default)]
        r#match: Vec<Spanned<String>>,
        #[serde(default)]
        routes: Vec<Spanned<Route>>,
    }
    let text = "[receivers.oncall]\nslack = { channel = '#${C}', token = 'env:T' }\n[route]\n\
                receiver = 'console'\n[[route.routes]]\nmatch = ['a = \"b\"']\n\
                receiver = 'oncall'\n[[route.routes.routes]]\nreciver = 'x'\n";
    let (config, _) = read(text, &[("C", "ops")], &Flags::default()).unwrap();
    let receiver: Receiver = config.receivers[0].read().unwrap();
    let slack = receiver.slack.unwrap().value;
    assert_eq!((slack.channel.value.as_str(), slack.token.reference()), ("#ops", "env:T"));
    let wrong = config.route.unwrap().read::<Route>().err().expect("`reciver` is no field");
    assert_eq!(wrong.0.len(), 1);
    assert_eq!(wrong.0[0].message, "route: `routes[0].routes[0]` has no field `reciver`");
    let good = text.replace("reciver", "receiver");
    let (config, _) = read(&good, &[("C", "ops")], &Flags::default()).unwrap();
    let route: Route = config.route.unwrap().read().unwrap();
    assert_eq!(route.receiver.unwrap().value, "console");
    let child = &route.routes[0].value;
    assert_eq!(&good[child.r#match[0].range.clone()], "'a = \"b\"'");
    assert_eq!(child.routes[0].value.receiver.as_ref().unwrap().value, "x");
}

#[test]
fn mistakes_in_one_section_do_not_hide_those_of_the_router() {
    let text = "[journal]\nretain = 5\n[receivers]\na = 1\n[receivers.b]\n[route]\n";
    let text = Arc::new(SourceText { path: "weir.toml".into(), text: text.to_owned() });
    let wrong: Result<(_, (), _), _> =
        ServerConfig::from_text(text, &Environment::Process, &Flags::default(), &|receivers, _| {
            Err(Diagnostic::error("W155", format!("{} receivers", receivers.len())).into())
        });
    let wrong = wrong.unwrap_err();
    let codes: Vec<&str> = wrong.0.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["W012", "W012", "W155"]);
}

#[test]
fn what_was_kept_is_read_again_without_the_file_and_its_variables() {
    let text = "[server]\ndata = '${D}/x'\nlisten = '127.0.0.1:1'\n[receivers.a]\nx = '${Y}'\n";
    let (config, _) = read(text, &[("D", "/d"), ("Y", "y")], &Flags::default()).unwrap();
    let set = [("D", "/d"), ("Y", "y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let kept = config.kept(&Environment::Fixed(set.into()));
    let flags = Flags { listen: Some("127.0.0.1:2".into()), ..Flags::default() };
    let (again, (), _) = ServerConfig::from_kept(&kept, &flags, &|_, _| Ok(())).unwrap();
    assert_eq!(again.data, PathBuf::from("/d/x"));
    assert_eq!(again.listen.port(), 2);
}

#[test]
fn receivers_and_routes_are_explained_without_secrets() {
    check(
        "[receivers.a]\nslack = { channel = '#a', token = 'env:T' }\n\
         webhook = { url = 'https://u:hunter2@h/hunter2', headers = { x = 'hunter2' } }\n\
         [route]\nreceiver = '${R}'\n",
        &[("R", "a")],
        &Flags::default(),
        r##"
receivers.a.slack = { channel = "#a", token = "env:T" }  # `weir.toml:2`
receivers.a.webhook = { url = "https://***@h/***", headers = { x = "***" } }  # `weir.toml:3`
route.receiver = "a"  # `weir.toml:5`
"##,
    );
}
