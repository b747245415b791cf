//! Places where a test lets the process die, between the steps of what must survive a crash.
//!
//! `WEIR_FAILPOINT=name:count` aborts the process where it passes [`failpoint!`](crate::failpoint)
//! of that name for the `count`th time. Without debug assertions nothing of it is compiled.

/// Dies here if `WEIR_FAILPOINT` names this place.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        #[cfg(debug_assertions)]
        $crate::failpoint::pass($name);
    }};
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
