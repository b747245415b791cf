//! Where a replay begins and ends.

use std::sync::Arc;
use std::time::Duration;

use super::{READ, ReplayError, Wanted};
use crate::config::Duration as Length;
use crate::intake::now;
use crate::journal::Entry;
use crate::replay::{Place, Request, When, reach, show};
use crate::runtime::Runtime;

/// Warm-up unless it is given: as long as what the plans hold reaches back, within these. Longer
/// than an hour is for who asks for it.
const WARM_UP: (i64, i64) = (300 * SECOND, 3_600 * SECOND);
const SECOND: i64 = 1_000_000_000;

/// Which entries count.
pub(super) struct Stretch {
    /// Where reading begins.
    pub(super) after: u64,
    /// Receive time from which on entries are taken, UTC nanoseconds.
    pub(super) warm: i64,
    /// The first entry that counts: at this position or, if that is 0, received since this time.
    pub(super) begin: Place,
    /// The last position that counts, and the time before which it must be received.
    pub(super) end: Place,
    /// Bytes of journal up to its end, about.
    pub(super) bytes: u64,
}

/// What there is of the journal, and what of it is asked for.
struct Asked<'a> {
    request: &'a Request,
    from: When,
    to: Option<When>,
    /// The oldest entry that is left, and whether there were older ones.
    oldest: Place,
    trimmed: bool,
    head: u64,
    now: i64,
}

impl Runtime {
    /// The stretch of the journal that is asked for.
    pub(super) async fn stretch(
        &self,
        request: &Request,
        warm_up: i64,
        notes: &mut Vec<String>,
    ) -> Result<Stretch, ReplayError> {
        let (journal, now) = (&self.shared.journal, now());
        let parse = |key: &str, text: &str| {
            When::parse(text, now).map_err(|e| ReplayError::Invalid(format!("`{key}`: {e}")))
        };
        let asked = Asked {
            request,
            from: parse("from", &request.from)?,
            to: request.to.as_deref().map(|to| parse("to", to)).transpose()?,
            oldest: self.first_behind(journal.oldest() - 1).await?,
            trimmed: journal.oldest() > 1,
            head: journal.head(),
            now,
        };
        asked.is_there()?;
        let mut begin = match asked.from {
            When::Oldest => asked.oldest,
            When::Time(time) => Place { position: 0, time },
            When::Position(position) => self.first_behind(position.max(1) - 1).await?,
        };
        begin.time = begin.time.max(asked.oldest.time);
        let end = asked.end(begin)?;
        let warm = begin.time.saturating_sub(warm_up);
        let there = (begin.time - asked.oldest.time).max(0);
        if asked.trimmed && there < warm_up {
            notes.push(format!(
                "the warm-up is {} in place of {}: the journal begins at entry {}; `[journal] \
                 retain` in weir.toml says how long entries stay",
                length(there / SECOND * SECOND),
                length(warm_up),
                asked.oldest.position
            ));
        }
        let after = journal.surely_before(warm);
        let last =
            if end.time == i64::MAX { end.position } else { journal.surely_before(end.time) };
        // Within one segment it is not known how much lies before a time.
        let behind = if last > after { journal.bytes_behind(last) } else { 0 };
        let bytes = journal.bytes_behind(after).saturating_sub(behind);
        Ok(Stretch { after, warm, begin, end, bytes })
    }

    /// The first entry behind an offset.
    async fn first_behind(&self, after: u64) -> Result<Place, ReplayError> {
        let mut reader = self.shared.journal.reader(after);
        let entries = tokio::time::timeout(READ, reader.next()).await;
        let entries = entries.map_err(|_| std::io::Error::other("no entry came in time"));
        match entries.and_then(|read| read) {
            Ok(entries) => Ok(entries.first().map(place).unwrap_or_default()),
            Err(e) => Err(ReplayError::Failed(format!("the journal cannot be read: {e}"))),
        }
    }
}

impl Asked<'_> {
    /// Whether the journal has what is asked for.
    fn is_there(&self) -> Result<(), ReplayError> {
        for (key, when) in [("from", Some(self.from)), ("to", self.to)] {
            if let Some(When::Position(position)) = when
                && position > self.head
            {
                let head = self.head;
                let message =
                    format!("`{key}` is entry {position}, and the newest entry is {head}");
                return Err(ReplayError::Invalid(message));
            }
        }
        let older = match self.from {
            When::Oldest => false,
            When::Time(time) if time > self.now => {
                let message = format!("`from` is in the future: `{}`", self.request.from);
                return Err(ReplayError::Invalid(message));
            }
            When::Time(time) => time < self.oldest.time,
            When::Position(position) => position < self.oldest.position,
        };
        // Where nothing was trimmed, nothing before the first entry could be missed.
        if !(older && self.trimmed) {
            return Ok(());
        }
        Err(ReplayError::Invalid(format!(
            "`from` is before the oldest entry that the journal still has: entry {}, received at \
             {}\nhint: start at `oldest`; `[journal] retain` in weir.toml says how long entries stay",
            self.oldest.position,
            show(self.oldest.time),
        )))
    }

    /// Where it ends, if it begins at `begin`.
    fn end(&self, begin: Place) -> Result<Place, ReplayError> {
        let end = match self.to {
            None => Place { position: self.head, time: i64::MAX },
            Some(When::Oldest) => Place { position: self.oldest.position, time: i64::MAX },
            Some(When::Time(time)) => Place { position: self.head, time },
            Some(When::Position(position)) => Place { position, time: i64::MAX },
        };
        let written = match (self.from, self.to) {
            (When::Position(from), Some(When::Position(to))) => from > to,
            _ => false,
        };
        if written || end.position < begin.position || end.time <= begin.time {
            let (from, to) = (&self.request.from, self.request.to.as_deref().unwrap_or("now"));
            let message = format!("nothing lies from `{from}` to `{to}`: `from` must come first");
            return Err(ReplayError::Invalid(message));
        }
        Ok(end)
    }
}

pub(super) fn place(entry: &Arc<Entry>) -> Place {
    Place { position: entry.offset, time: entry.head.received }
}

/// Nanoseconds as people write lengths.
fn length(nanos: i64) -> String {
    Length(Duration::from_nanos(nanos.max(0).unsigned_abs())).to_string()
}

/// How long before the stretch both sides begin, and how much later a row may come on one side,
/// nanoseconds.
pub(super) fn warm_up(request: &Request, wanted: &mut Wanted) -> Result<(i64, i64), ReplayError> {
    let plans = wanted.pairs.iter().flat_map(|p| p.live.iter().chain(&p.edited));
    let needed = plans.map(|plan| reach(plan)).max().unwrap_or_default();
    let usual = needed.clamp(WARM_UP.0, WARM_UP.1);
    if let Some(text) = &request.warm_up {
        let given: Result<Length, String> = text.parse();
        let given = given.map_err(|e| ReplayError::Invalid(format!("`warm_up`: {e}")))?;
        return Ok((given.nanos(), usual));
    }
    if needed > WARM_UP.1 {
        wanted.notes.push(format!(
            "windows and alerts reach {} back, and the warm-up is {}: what they hold from before \
             that is not there, on neither side; `--warm-up` makes it longer",
            length(needed),
            length(usual)
        ));
    }
    Ok((usual, usual))
}
