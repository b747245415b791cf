//! What people write.

use weir_pipeline::config::{Scope, Section};

use super::super::{KIND, Plan};

fn plan(toml: &str) -> Result<(Plan, usize), String> {
    let section = Section::parse_for_tests("otlp", toml);
    let scope = Scope::new(Vec::new(), "/etc/weir".into());
    let plan = (KIND.plan)(&section, &scope).map_err(|e| e.to_string())?;
    let plan = plan.as_any().downcast_ref::<Plan>().unwrap().clone();
    Ok((plan, scope.take_warnings().len()))
}

#[test]
fn addresses() {
    let (plan, warnings) =
        self::plan("grpc = \"127.0.0.1:4317\"\nhttp = \"localhost:4318\"").unwrap();
    let at: Vec<String> = plan.endpoints().iter().map(|e| e.address.to_string()).collect();
    assert_eq!(at, ["127.0.0.1:4317", "127.0.0.1:4318"]);
    assert_eq!((plan.max_request_bytes, plan.decoder.max_bytes), (16 << 20, 64 << 20));
    assert_eq!(warnings, 0);
    // One address for both is one listener.
    let (plan, _) = self::plan("grpc = \"[::1]:4317\"\nhttp = \"[::1]:4317\"").unwrap();
    assert_eq!(plan.endpoints().len(), 1);
}

#[test]
fn open_addresses() {
    let tls = "tls = { cert = \"c.pem\", key = \"/k.pem\" }";
    let auth = "auth = { bearer = [\"env:TOKEN\"] }";
    let http = "http = \"0.0.0.0:4318\"";
    let error = plan(http).unwrap_err();
    assert!(
        error.contains("error[W060]: `http` can be reached from outside, without `tls` and `auth`"),
        "{error}"
    );
    assert!(plan(&format!("{http}\n{auth}")).unwrap_err().contains("without `tls`"));
    assert!(plan(&format!("{http}\n{tls}")).unwrap_err().contains("without `auth`"));
    assert_eq!(plan(&format!("{http}\ninsecure = true")).unwrap().1, 1);
    let (plan, warnings) = plan(&format!("{http}\n{auth}\n{tls}")).unwrap();
    assert_eq!(warnings, 0);
    let tls = plan.tls.unwrap();
    assert_eq!(tls.cert.to_str(), Some("/etc/weir/c.pem"));
    assert_eq!(tls.key.to_str(), Some("/k.pem"));
}

#[test]
fn mistakes() {
    let check = |toml: &str, expect: &[&str]| {
        let error = plan(toml).unwrap_err();
        for part in expect {
            assert!(error.contains(part), "{error}");
        }
    };
    check("", &["needs `grpc` or `http`"]);
    check(
        "http = \":4318\"\ngrpc = \"here\"",
        &[
            "`http` is not an address: `:4318`",
            "hint: write `http = \"127.0.0.1:4318\"`",
            "`grpc` is not an address: `here`",
        ],
    );
    check("htp = \"127.0.0.1:1\"", &["did you mean `http`?"]);
    check("http = \"127.0.0.1:1\"\nmax_request_bytes = \"1GiB\"", &["out of range: `1GiB`"]);
}

#[test]
fn documented_example() {
    let doc = KIND.doc();
    let toml = doc.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let body = toml.split_once("[sources.otlp]\n").unwrap().1;
    assert_eq!(plan(body).unwrap().0.endpoints().len(), 2);
}
