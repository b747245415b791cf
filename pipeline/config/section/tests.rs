#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    source: Option<Spanned<String>>,
    file: Option<Spanned<String>>,
    #[schemars(extend("x-weir-verbatim" = true))]
    summary: Option<Spanned<String>>,
    #[serde(default)]
    table: BTreeMap<String, Spanned<u16>>,
    plain: Option<String>,
}

/// What the bytes of `part` of the text under `source` are in the file.
#[track_caller]
fn check(toml: &str, part: &str, expect: &str) {
    let section = Section::parse_for_tests("x", toml);
    let config: Config = section.read().unwrap();
    let text = section.text(config.source.as_ref().unwrap());
    let start = text.text.find(part).unwrap();
    let span = text.locate(start..start + part.len());
    assert_eq!(&span.file.text[span.range], expect);
}

#[test]
fn texts_point_into_the_file() {
    check("source = 'a = b'", "b", "b");
    check("source = \"a = b\"", "b", "b");
    check("source = '''\na\nb = c'''", "c", "c");
    check("source = \"\"\"\r\na\"\"\"", "a", "a");
    check("source = \"\"\"a ü b\"\"\"", "b", "b");
    // With escapes the whole value is the place.
    check("source = \"a = \\\"b\\\"\"", "b", "\"a = \\\"b\\\"\"");
}

#[test]
fn dollars_in_programs_are_theirs() {
    let toml = "source = '${A} $$'\nsummary = '${B}'\ntable = { a = 1 }\nplain = '$$${C:-c}'";
    let section = Section::parse_for_tests("x", toml);
    let config: Config = section.read().unwrap();
    assert_eq!(config.source.unwrap().value, "${A} $$");
    assert_eq!(config.summary.unwrap().value, "${B}");
    assert_eq!(config.plain.unwrap(), "$c");
    assert_eq!(&toml[config.table["a"].range.clone()], "1");
}

#[test]
fn a_fragment_for_tests() {
    let section = Section::parse_for_tests("x", "type = 'vrl'\ninputs = ['a']\nfile = 'a.vrl'");
    let config: Config = section.read().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.vrl"), "del(.x)").unwrap();
    let scope = Scope::new(Vec::new(), dir.path().to_path_buf());
    let file = config.file.as_ref();
    let text = section.text_or_file("source", None, file, &scope).unwrap();
    assert_eq!((text.text.as_str(), text.exact), ("del(.x)", true));
    assert_eq!(scope.take_files().len(), 1);
    let broken = Section::parse_for_tests("x", "plain = ");
    assert_eq!(broken.read::<Config>().unwrap_err().0[0].code, "W001");
    let unknown = Section::parse_for_tests("x", "type = 'vrl'\nsorce = 'x'");
    let wrong = unknown.read::<Config>().unwrap_err();
    assert_eq!(wrong.0[0].hint.as_deref(), Some("`weir describe vrl` lists every field"));
}
