//! Where sources hand in what they received: decoded first, then appended, then acknowledged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::admission::{Gate, Held};
use crate::batch::{Batch, Run, TENANT};
use crate::component::{DecodeError, Decoded, Decoder, EntryHead, Rejected};
use crate::entity::EntitySpace;
use crate::journal::{AppendError, Appended, EntryKind, Envelope, Journal, NewEntry, STEP_MIN_NS};
use crate::telemetry::ComponentMetrics;

/// Payloads above this many bytes are decoded off the asynchronous threads' time slice.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// When to try again after an error of the disk, or when others hold the memory there is.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a decoded request waits for others to go.
const TICKETS: Duration = Duration::from_secs(5);
/// How long a request waits for a tick then, which comes within 200 ms unless the disk refuses; and
/// between two looks.
const SET_BACK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(10));
/// First and longest pause of [`Intake::accept_patiently`] between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What a payload was accepted as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Journal offset, or `None` if no row was left and nothing was journaled.
    pub offset: Option<u64>,
    /// Rows accepted.
    pub rows: u64,
    /// Rows left out, and why: for partial success answers.
    pub rejected: Vec<Rejected>,
}

/// Why a payload was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// It does not decode; sending it again does not help (answered 400).
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It could not be kept now.
    #[error(transparent)]
    NotKept(#[from] AppendError),
    /// Who reads it is too far behind.
    #[error(transparent)]
    Held(#[from] Held),
}

impl Refused {
    /// Whether it is the load that is too high (429) or something is not there (503), and when to
    /// try again; `None` if that does not help.
    pub fn retry(&self) -> Option<(bool, Duration)> {
        match self {
            Self::Malformed(_) => None,
            Self::NotKept(AppendError::Busy { retry_after }) => Some((true, *retry_after)),
            Self::NotKept(AppendError::Full { retry_after }) => Some((false, *retry_after)),
            Self::NotKept(AppendError::Io(_) | AppendError::Stopped) => Some((false, AGAIN)),
            Self::Held(held) => Some((held.overload, held.retry_after)),
        }
    }

    /// As the metric names it.
    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(e) => e.reason,
            Self::NotKept(AppendError::Full { .. }) => "journal_full",
            Self::NotKept(AppendError::Busy { .. }) => "busy",
            Self::NotKept(AppendError::Io(_)) => "journal_io",
            Self::NotKept(AppendError::Stopped) => "stopping",
            Self::Held(held) => held.reason,
        }
    }
}

/// The way in of one source. Clones share it.
#[derive(Clone)]
pub struct Intake {
    source: Arc<str>,
    journal: Journal,
    gate: Arc<Gate>,
    entities: Arc<EntitySpace>,
    metrics: Arc<ComponentMetrics>,
}

/// The wall clock, UTC nanoseconds. Sources stamp what they receive with it; nothing behind the
/// journal reads it.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    now.saturating_add(crate::failpoint::clock_error())
}

impl Intake {
    /// The way in of `source`.
    pub fn new(
        source: Arc<str>,
        journal: Journal,
        gate: Arc<Gate>,
        entities: Arc<EntitySpace>,
        metrics: Arc<ComponentMetrics>,
    ) -> Self {
        Self { source, journal, gate, entities, metrics }
    }

    /// The way in of all sources.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Its counters, for what a source refuses before decoding (`too_large`, `unauthorized`).
    pub fn metrics(&self) -> &ComponentMetrics {
        &self.metrics
    }

    /// Where the source goes on: the cursor of the newest of its entries that had one.
    pub fn cursor(&self) -> Option<Bytes> {
        self.journal.cursor(&self.source)
    }

    /// Decodes `payload`, appends it and waits until it is on disk. Only then may the sender be
    /// told that it was taken.
    ///
    /// # Errors
    /// [`Refused::Malformed`] if nothing of it can be used, [`Refused::NotKept`] if it could not
    /// be kept now.
    pub async fn accept(
        &self,
        generation: u32,
        decoder: &dyn Decoder,
        envelope: Envelope,
        payload: Bytes,
        cursor: Bytes,
    ) -> Result<Accepted, Refused> {
        self.take_in(generation, decoder, envelope, payload, cursor, None).await
    }

    /// [`Intake::accept`] for senders that cannot be told to try again: what the journal cannot
    /// take now is tried until `give_up` is cancelled. In the meantime the source reads no more.
    ///
    /// # Errors
    /// As [`Intake::accept`]; [`Refused::NotKept`] only after `give_up`.
    pub async fn accept_patiently(
        &self,
        generation: u32,
        decoder: &dyn Decoder,
        envelope: Envelope,
        payload: Bytes,
        cursor: Bytes,
        give_up: &CancellationToken,
    ) -> Result<Accepted, Refused> {
        self.take_in(generation, decoder, envelope, payload, cursor, Some(give_up)).await
    }

    async fn take_in(
        &self,
        generation: u32,
        decoder: &dyn Decoder,
        envelope: Envelope,
        payload: Bytes,
        cursor: Bytes,
        give_up: Option<&CancellationToken>,
    ) -> Result<Accepted, Refused> {
        let received = now();
        let way = if envelope.target.is_empty() { &envelope.path } else { &envelope.target };
        let way = way.clone();
        let reject = |rows, reason, message: &str| {
            self.metrics.rejected(rows, reason, message, received);
            self.metrics.way(&way, |w| w.reject(rows, reason, message));
        };
        let refuse = |rows, refused: &Refused| reject(rows, refused.reason(), &refused.to_string());
        if give_up.is_none() {
            // Before the work of decoding.
            self.gate.check(&self.source).map_err(Refused::from).inspect_err(|e| refuse(1, e))?;
        }
        let place = self.gate.decoding(payload.len(), !envelope.encoding.is_empty()).await;
        let decode = || {
            let head = EntryHead { received, envelope: &envelope };
            decode_guarded(decoder, &head, &payload, &self.entities)
        };
        let decoded = if payload.len() > INLINE_BYTES_MAX {
            tokio::task::block_in_place(decode)
        } else {
            decode()
        };
        let decoded = decoded.inspect_err(|e| reject(1, e.reason, &e.message))?;
        let (rejected, idempotent) = (decoded.rejected.clone(), decoded.idempotent);
        let left_out = || rejected.iter().for_each(|r| reject(r.rows, r.reason, &r.message));
        let batches = batches(&self.source, received, decoded)?;
        drop(place);
        let rows = batches.iter().map(|(_, b)| b.num_rows() as u64).sum();
        if rows == 0 && cursor.is_empty() {
            left_out();
            return Ok(Accepted { offset: None, rows, rejected });
        }
        let bytes = payload.len() as u64;
        let decoded_bytes = batches.iter().map(|(_, b)| b.bytes()).sum();
        let tickets = self.gate.decoded(decoded_bytes);
        let tickets = match give_up {
            None => tokio::time::timeout(TICKETS, tickets).await.unwrap_or_default(),
            Some(_) => tickets.await,
        };
        let Some(_tickets) = tickets else {
            let busy = Refused::from(AppendError::Busy { retry_after: AGAIN });
            refuse(rows, &busy);
            return Err(busy);
        };
        self.after_set_back().await;
        let entry = NewEntry {
            kind: EntryKind::Data,
            source: self.source.clone(),
            generation,
            tenant: TENANT.into(),
            received,
            cursor,
            envelope,
            payload,
            idempotent,
            decoded: Some(batches),
        };
        let appended = match give_up {
            None => self.journal.append_once(entry).await.map_err(Refused::from),
            Some(give_up) => self.append_patiently(entry, give_up).await,
        };
        let Appended { offset, repeated } = appended.inspect_err(|e| refuse(rows, e))?;
        if repeated {
            // Its rows, and what was left out of them, count once.
            self.metrics.repeated(received);
            return Ok(Accepted { offset: Some(offset), rows, rejected });
        }
        left_out();
        self.metrics.way(&way, |w| {
            w.last_entry = received;
            w.rows += rows;
        });
        self.metrics.input(rows, bytes, received);
        self.metrics.output(rows, bytes);
        Ok(Accepted { offset: Some(offset), rows, rejected })
    }

    /// Waits until the pipelines know that the clock was set back: by what it said before, this
    /// would be late.
    async fn after_set_back(&self) {
        let is_behind = || self.journal.last_tick().is_some_and(|t| t > now() + STEP_MIN_NS);
        if !is_behind() {
            return;
        }
        let tick = async {
            while is_behind() {
                tokio::time::sleep(SET_BACK.1).await;
            }
        };
        let _ = tokio::time::timeout(SET_BACK.0, tick).await;
    }

    async fn try_append(&self, entry: NewEntry) -> Result<Appended, Refused> {
        self.gate.check(&self.source)?;
        Ok(self.journal.append_once(entry).await?)
    }

    async fn append_patiently(
        &self,
        entry: NewEntry,
        give_up: &CancellationToken,
    ) -> Result<Appended, Refused> {
        let mut pause = PAUSE.0;
        loop {
            let error = match self.try_append(entry.clone()).await {
                Ok(appended) => return Ok(appended),
                Err(Refused::NotKept(AppendError::Stopped)) => {
                    return Err(AppendError::Stopped.into());
                }
                Err(error) => error,
            };
            tracing::warn!(source = %self.source, %error, "entry waits for the journal");
            self.metrics.error(1, "waiting", &error.to_string(), now());
            tokio::select! {
                () = give_up.cancelled() => return Err(error),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }
}

/// Decodes with panics caught: a decoder's mistake costs one request.
pub fn decode_guarded(
    decoder: &dyn Decoder,
    head: &EntryHead<'_>,
    payload: &Bytes,
    entities: &EntitySpace,
) -> Result<Decoded, DecodeError> {
    catch_unwind(AssertUnwindSafe(|| decoder.decode(head, payload, entities)))
        .unwrap_or_else(|_| Err(DecodeError::new("panic", "the decoder failed on this payload")))
}

/// Rows of one entry as batches, their offset still unset.
pub fn batches(
    source: &Arc<str>,
    received: i64,
    decoded: Decoded,
) -> Result<Vec<(&'static str, Batch)>, DecodeError> {
    decoded
        .batches
        .into_iter()
        .filter(|d| d.rows.num_rows() > 0)
        .map(|d| {
            let rows = d.rows.num_rows();
            let run = Run { offset: 0, received, source: source.clone(), rows };
            Batch::new(d.signal, TENANT.into(), d.rows, d.entities, [run].into())
                .map(|batch| (d.output, batch))
                .map_err(|e| DecodeError::new("internal", e.to_string()))
        })
        .collect()
}
