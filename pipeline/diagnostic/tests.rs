use super::*;

fn span(text: &str, part: &str) -> Span {
    let file = Arc::new(SourceText { path: "pipelines.d/shop.toml".into(), text: text.to_owned() });
    let start = text.find(part).unwrap_or_default();
    Span { file, range: start..start + part.len() }
}

#[track_caller]
fn check(diagnostic: &Diagnostic, expect: &str) {
    let got = diagnostic.to_string();
    assert_eq!(got, expect, "\n{got}");
}

#[test]
fn as_the_conventions_show_it() {
    let text = format!("{}agregate = {{ p99 = \"x\" }}\n", "\n".repeat(16));
    let message = "operator `p99_by_service` has no field `agregate`";
    let diagnostic = Diagnostic::error("W014", message)
        .at(&span(&text, "agregate"))
        .label("did you mean `aggregate`?")
        .hint("`weir describe window` lists every field");
    check(
        &diagnostic,
        "error[W014]: operator `p99_by_service` has no field `agregate`
  --> pipelines.d/shop.toml:17:1
   |
17 | agregate = { p99 = \"x\" }
   | ^^^^^^^^ did you mean `aggregate`?
   |
hint: `weir describe window` lists every field
",
    );
}

#[test]
fn wide_characters_tabs_and_ends() {
    check(
        &Diagnostic::warning("W031", "x").at(&span("a\n\tä = 'b'", "'b'")),
        "warning[W031]: x\n --> pipelines.d/shop.toml:2:6\n  |\n2 | \tä = 'b'\n  | \t    ^^^\n",
    );
    let past = Span { range: 90..99, ..span("a\n", "a") };
    check(
        &Diagnostic::error("W001", "x").at(&past),
        "error[W001]: x\n --> pipelines.d/shop.toml:2:1\n  |\n2 | \n  | ^\n",
    );
    check(&Diagnostic::error("W002", "x").hint("y"), "error[W002]: x\nhint: y\n");
}

#[test]
fn secrets_are_not_shown() {
    let broken = span("Token = hunter2", "hunter2");
    let parses = span("[receivers.a]\nslack = 'hunter2'", "'hunter2'");
    for span in [broken, parses] {
        let wrong = Diagnostic::error("W015", "x").at(&span).related(&span, "y");
        let shown = wrong.to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn the_nearest_name() {
    let near = |name| nearest(name, ["aggregate", "every", "by", "inputs"]);
    assert_eq!(near("agregate"), Some("aggregate"));
    assert_eq!(near("evry"), Some("every"));
    assert_eq!(near("input"), Some("inputs"));
    assert_eq!(near("colour"), None);
    assert_eq!(near("qq"), None);
}
