//! Places where a test lets the process die, between the steps of what must survive a crash, or
//! the disk fail.
//!
//! `WEIR_FAILPOINT=name:count` aborts the process where it passes [`failpoint!`](crate::failpoint)
//! of that name for the `count`th time. `WEIR_FAULTS=file` names a file whose lines `name errno`
//! (`journal.sync 5`, `*.write 28`) are the errors that [`fault!`](crate::fault) gives now; they come
//! and go with the lines. `WEIR_CLOCK=file` names a file with a number of seconds by which the wall
//! clock is ahead (or behind). Without debug assertions nothing of it is compiled.

/// Dies here if `WEIR_FAILPOINT` names this place.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        #[cfg(debug_assertions)]
        $crate::failpoint::pass($name);
    }};
}

/// The error that the disk has here by `WEIR_FAULTS`, if it has one.
#[macro_export]
macro_rules! fault {
    ($name:literal) => {{
        #[cfg(debug_assertions)]
        let outcome = $crate::failpoint::fault($name);
        #[cfg(not(debug_assertions))]
        let outcome = std::io::Result::Ok(());
        outcome
    }};
}

/// What [`fault!`](crate::fault) gives.
#[cfg(debug_assertions)]
pub fn fault(name: &str) -> std::io::Result<()> {
    use std::sync::LazyLock;
    static FILE: LazyLock<Option<std::ffi::OsString>> =
        LazyLock::new(|| std::env::var_os("WEIR_FAULTS"));
    let Some(file) = &*FILE else { return Ok(()) };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let fault = text.lines().find_map(|line| {
        let (place, errno) = line.split_once(' ')?;
        let here = place == name || place.strip_prefix('*').is_some_and(|end| name.ends_with(end));
        if here { errno.parse().ok() } else { None }
    });
    fault.map_or(Ok(()), |errno| Err(std::io::Error::from_raw_os_error(errno)))
}

/// What [`failpoint!`](crate::failpoint) does.
#[cfg(debug_assertions)]
pub fn pass(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static ARMED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var("WEIR_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    });
    if let Some((armed, left)) = &*ARMED
        && armed == name
        && left.fetch_sub(1, Relaxed) == 1
    {
        // No destructor, no flush: as `kill -9` does it.
        std::process::abort();
    }
}

/// By how much the wall clock is wrong, nanoseconds, by the file that `WEIR_CLOCK` names.
#[cfg(debug_assertions)]
pub fn clock_error() -> i64 {
    use std::sync::LazyLock;
    static FILE: LazyLock<Option<std::ffi::OsString>> =
        LazyLock::new(|| std::env::var_os("WEIR_CLOCK"));
    let seconds =
        || -> Option<i64> { std::fs::read_to_string(FILE.as_ref()?).ok()?.trim().parse().ok() };
    seconds().unwrap_or(0).saturating_mul(1_000_000_000)
}

/// Nothing, in a release.
#[cfg(not(debug_assertions))]
pub fn clock_error() -> i64 {
    0
}

/// Dies here if the payload contains the text of `WEIR_POISON`, as a defect of ours would let it.
#[cfg(debug_assertions)]
pub fn poison(payload: &[u8]) {
    use std::sync::LazyLock;
    static POISON: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("WEIR_POISON").ok().filter(|text| !text.is_empty()));
    if let Some(text) = &*POISON
        && payload.windows(text.len()).any(|part| part == text.as_bytes())
    {
        std::process::abort();
    }
}

/// Nothing, in a release.
#[cfg(not(debug_assertions))]
pub fn poison(_: &[u8]) {}
