//! One file that does not lie in the folder, planned beside the files that do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{LastGood, UNREADABLE, Version, attempt, read_version, sort};
use crate::component::Components;
use crate::config::{Bundle, Environment, file};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, SourceText};
use crate::lookup::Tables;
use crate::plan::{PipelinePlan, SourceDefinition};

/// Reads a pipeline file and the files that it names, for one who plans it elsewhere. What else is
/// wrong with it is found there, where the other files are.
///
/// # Errors
/// If one of them cannot be read.
pub fn bundle_of(
    path: &Path,
    components: &Components,
    environment: &Environment,
) -> Result<Bundle, Diagnostics> {
    let key = path.display().to_string();
    let version = read_version(path.to_owned(), &key, environment)?;
    let mut attempt = {
        // Whoever plans it has the tables.
        let tables = Tables::nothing();
        attempt(&BTreeMap::from([(key.as_str(), &version)]), components, &tables)
    };
    let wrong = attempt.wrong.remove(&key).unwrap_or_default().0.into_iter();
    let unread: Vec<Diagnostic> = wrong.filter(|d| d.code == UNREADABLE).collect();
    if unread.is_empty() {
        Ok(attempt.bundles.remove(&key).unwrap_or_default())
    } else {
        Err(Diagnostics(unread))
    }
}

/// What the pipeline of a file is called by itself.
pub(crate) fn name_of(path: &str, text: &str, environment: &Environment) -> String {
    let text = SourceText { path: path.into(), text: text.to_owned() };
    file::read(Arc::new(text), environment).0.name
}

/// What a file was read from, as if the file at `from` lay at `to`: with what it names beside it.
pub(crate) fn moved(bundle: &Bundle, from: &str, to: &str) -> Bundle {
    let folder = |path: &str| Path::new(path).parent().unwrap_or(Path::new("")).to_owned();
    let (source, target) = (folder(from), folder(to));
    let place = |path: &String| match Path::new(path).strip_prefix(&source) {
        _ if path == from => to.to_owned(),
        Ok(rest) => target.join(rest).display().to_string(),
        Err(_) => path.clone(),
    };
    let files = bundle.files.iter().map(|(path, text)| (place(path), text.clone()));
    Bundle { files: files.collect(), ..bundle.clone() }
}

/// What came of [`plan_beside`].
pub(crate) type Beside = (PipelinePlan, BTreeMap<Arc<str>, Arc<SourceDefinition>>, Diagnostics);

/// Plans the file `path` of `bundle` as the pipeline `name`, beside the files of `good` without
/// `replaced`, the one in whose place it stands. Gives the pipeline, the sources of all files, and
/// warnings.
///
/// # Errors
/// Everything that is wrong with the file.
pub(crate) fn plan_beside(
    good: &LastGood,
    replaced: Option<&str>,
    bundle: &Bundle,
    path: &str,
    name: &str,
    (components, tables): (&Components, &Tables),
) -> Result<Beside, Diagnostics> {
    let others = good.iter().filter(|(p, _)| *p != path && Some(p.as_str()) != replaced);
    let others: BTreeMap<&str, Version> =
        others.filter_map(|(p, b)| Some((p.as_str(), Version::of_bundle(p, b)?))).collect();
    let missing = || Diagnostic::error(UNREADABLE, format!("file `{path}` was not sent"));
    let mut edited = Version::of_bundle(path, bundle).ok_or_else(missing)?;
    edited.name = Some(name.to_owned());
    let mut versions: BTreeMap<&str, &Version> = others.iter().map(|(p, v)| (*p, v)).collect();
    versions.insert(path, &edited);
    let mut attempt = attempt(&versions, components, tables);
    let mut wrong = attempt.wrong.remove(path).unwrap_or_default();
    for double in &attempt.doubled {
        let [first, second] = &double.places;
        for ((of, at), (_, other)) in [(first, second), (second, first)] {
            if of == path {
                wrong.push(double.said(at, other));
            }
        }
    }
    sort(&mut wrong);
    if wrong.has_errors() {
        wrong.0.retain(|d| d.severity == Severity::Error);
        return Err(wrong);
    }
    let plan = attempt.plan.pipelines.remove(name).filter(|p| p.path == Path::new(path));
    let plan = plan.and_then(Arc::into_inner).ok_or_else(|| {
        let message = format!("file `{path}` has no pipeline: no operator, sink or alert");
        Diagnostic::error("W045", message)
    })?;
    Ok((plan, attempt.plan.sources, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_names_moves_with_it() {
        let files = ["edit/a.toml", "edit/x.vrl", "edit/below/y.vrl", "/etc/z.vrl"];
        let files = files.map(|path| (path.to_owned(), String::new())).into();
        let bundle = Bundle { files, ..Bundle::default() };
        let paths = |from: &str, to: &str| -> Vec<String> {
            moved(&bundle, from, to).files.into_keys().collect()
        };
        let expected = ["/etc/z.vrl", "live/b.toml", "live/below/y.vrl", "live/x.vrl"];
        assert_eq!(paths("edit/a.toml", "live/b.toml"), expected);
        let expected = ["/etc/z.vrl", "/l/edit/a.toml", "/l/edit/below/y.vrl", "/l/edit/x.vrl"];
        assert_eq!(paths("here.toml", "/l/b.toml"), expected);
    }
}
