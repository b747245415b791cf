//! Publishing what waits, and waiting until the stream has it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::{self, Context};
use weir_pipeline::component::{SinkContext, SinkError};
use weir_pipeline::intake::now;
use weir_pipeline::nats_client::{TIMEOUT, chain, stream};

use super::Settings;
use crate::messages::Message;

/// Messages whose acknowledgement is waited for at a time: a round trip per so many.
const IN_FLIGHT: usize = 1_000;
/// Bytes of them, for large rows.
const IN_FLIGHT_BYTES: usize = 8 << 20;
/// What the server says of a message that is longer than the stream takes.
/// Source: `JSStreamMessageExceedsMaximumErr` of nats-server.
const TOO_LONG: &str = "message size exceeds maximum";

pub(super) struct Sender {
    pub(super) settings: Arc<Settings>,
    context: SinkContext,
    /// Made when something is to be sent; made anew after an error.
    connection: Option<Context>,
    /// Rows since the last tick that are not acknowledged yet.
    pub(super) waiting: VecDeque<Message>,
    /// The tick under which rows are sent, and how many of it are done.
    tick: u64,
    done: u64,
    /// Rows were refused, and that was said.
    refused: bool,
}

/// What came of a message.
enum Answer {
    Taken,
    /// For good.
    Refused(&'static str, String),
}

impl Sender {
    pub(super) fn new(settings: Arc<Settings>, context: SinkContext) -> Self {
        Self {
            settings,
            context,
            connection: None,
            waiting: VecDeque::new(),
            tick: 0,
            done: 0,
            refused: false,
        }
    }

    /// Sends what is there under the tick at `offset`. Goes on where a try before failed.
    pub(super) async fn send(&mut self, offset: u64) -> Result<(), SinkError> {
        if self.tick != offset {
            (self.tick, self.done) = (offset, 0);
        }
        while !self.waiting.is_empty() {
            if let Err(why) = self.some().await {
                self.connection = None;
                return Err(SinkError::transient(why));
            }
        }
        Ok(())
    }

    /// Publishes as many messages as may be under way, then waits for them in their order.
    async fn some(&mut self) -> Result<(), String> {
        let context = self.connect().await?;
        let SinkContext { journal, pipeline, sink, .. } = &self.context;
        // Names are free text, header values are not.
        let pipeline: String = url::form_urlencoded::byte_serialize(pipeline.as_bytes()).collect();
        let prefix = format!("{journal:032x}/{pipeline}/{sink}/{}", self.tick);
        let mut under_way = Vec::new();
        let mut bytes = 0;
        for (message, number) in self.waiting.iter().zip(self.done..) {
            if under_way.len() == IN_FLIGHT || bytes >= IN_FLIGHT_BYTES {
                break;
            }
            bytes += message.value.len();
            under_way.push(publish(&context, message, &format!("{prefix}/{number}")).await?);
        }
        for sent in under_way {
            let answer = match sent {
                Ok(acknowledged) => {
                    acknowledged.await.map_or_else(|e| failed(&e), |_| Ok(Answer::Taken))
                }
                Err(answer) => Ok(answer),
            };
            match answer? {
                Answer::Taken => self.refused = false,
                Answer::Refused(reason, why) => self.dropped(reason, &why),
            }
            self.waiting.pop_front();
            self.done += 1;
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Context, String> {
        if let Some(context) = &self.connection {
            return Ok(context.clone());
        }
        let client = self.settings.connection.connect().await?;
        let mut context = jetstream::new(client);
        context.set_timeout(TIMEOUT);
        if let Some(name) = &self.settings.stream {
            stream(&context, name, self.settings.create.as_ref()).await?;
        }
        Ok(self.connection.insert(context).clone())
    }

    fn dropped(&mut self, reason: &str, why: &str) {
        let SinkContext { pipeline, sink, metrics, .. } = &self.context;
        metrics.error(1, reason, why, now());
        if !std::mem::replace(&mut self.refused, true) {
            tracing::error!(%pipeline, %sink, error = why, "rows cannot be published; they are dropped and counted");
        }
    }
}

/// Sends one message; gives what it is to wait for, or what came of it.
async fn publish(
    context: &Context,
    message: &Message,
    id: &str,
) -> Result<Result<PublishAckFuture, Answer>, String> {
    let Some(to) = &message.to else {
        let why = "`subject_by` gives no subject for a row".to_owned();
        return Ok(Err(Answer::Refused("no_subject", why)));
    };
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    let subject = subject(to).into_owned();
    match context.publish_with_headers(subject, headers, message.value.clone()).await {
        Ok(acknowledged) => Ok(Ok(acknowledged)),
        Err(error) => failed(&error).map(Err),
    }
}

/// What an error means for the message: that it can never be taken, or a try later.
fn failed(error: &PublishError) -> Result<Answer, String> {
    let why = chain(error);
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Ok(Answer::Refused("refused", why)),
        _ if why.contains(TOO_LONG) => Ok(Answer::Refused("refused", why)),
        PublishErrorKind::StreamNotFound => Err(format!(
            "{why}; create a stream for it, or let Weir do so by `stream` and `create`"
        )),
        _ => Err(why),
    }
}

/// `text` as a subject: no white space, no wildcard, no empty part.
pub(super) fn subject(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
    let empty = text.split('.').any(str::is_empty);
    if !empty && !text.contains(bad) {
        return text.into();
    }
    let part = |part: &str| if part.is_empty() { "_".to_owned() } else { part.replace(bad, "_") };
    text.split('.').map(part).collect::<Vec<_>>().join(".").into()
}
