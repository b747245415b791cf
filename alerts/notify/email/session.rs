//! One SMTP dialogue, on a connection of its own.
//!
//! lettre's transport is not used: its pool hands on half-finished dialogues when a send is
//! dropped, and one refused recipient takes the message from all. Its connection is.

use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};

use super::{Email, Tls};
use crate::notify::SendError;

/// Time for the goodbye: it must not turn a message that was taken into a failed attempt.
const GOODBYE: Duration = Duration::from_secs(2);

/// Hands `body` to the server for every recipient that it takes.
pub(super) async fn deliver(
    email: &Email,
    password: Option<String>,
    body: &[u8],
) -> Result<(), SendError> {
    let mut smtp = connect(email).await?;
    let result = dialogue(&mut smtp, email, password, body).await;
    // The message is taken or not: how the goodbye goes does not matter.
    let _ = tokio::time::timeout(GOODBYE, smtp.quit()).await;
    result
}

async fn connect(email: &Email) -> Result<AsyncSmtpConnection, SendError> {
    let hello = email.hello.clone().map_or_else(ClientId::default, ClientId::Domain);
    let host = email.host.trim_matches(['[', ']']);
    let server = (host, email.port);
    let tls = match email.tls {
        Tls::None => None,
        Tls::Starttls | Tls::Implicit => Some(tls(email, host)?),
    };
    let implicit = tls.clone().filter(|_| email.tls == Tls::Implicit);
    let at = |e| class(&format!("{host}:{}", email.port), e);
    let mut smtp = AsyncSmtpConnection::connect_tokio1(server, None, &hello, implicit, None)
        .await
        .map_err(at)?;
    if email.tls == Tls::Starttls
        && let Some(tls) = tls
    {
        if !smtp.can_starttls() {
            smtp.abort().await;
            return Err(SendError::permanent(format!(
                "{host}:{} does not offer STARTTLS, which `tls` asks for",
                email.port
            )));
        }
        smtp.starttls(tls, &hello).await.map_err(at)?;
    }
    Ok(smtp)
}

fn tls(email: &Email, host: &str) -> Result<TlsParameters, SendError> {
    let mut builder: TlsParametersBuilder = TlsParameters::builder(host.to_owned());
    if let Some(path) = &email.ca {
        let fail = |e: &dyn std::fmt::Display| SendError::permanent(format!("ca `{path}`: {e}"));
        let pem = std::fs::read(path).map_err(|e| fail(&e))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| fail(&e))?);
    }
    builder.build_rustls().map_err(|e| SendError::permanent(format!("tls: {e}")))
}

async fn dialogue(
    smtp: &mut AsyncSmtpConnection,
    email: &Email,
    password: Option<String>,
    body: &[u8],
) -> Result<(), SendError> {
    if let (Some((user, _)), Some(password)) = (&email.login, password) {
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let credentials = Credentials::new(user.clone(), password);
        smtp.auth(&mechanisms, &credentials).await.map_err(|e| class("authentication", e))?;
    }
    let from = email.from.0.email.clone();
    let mut options = Vec::new();
    if !body.is_ascii() && smtp.server_info().supports_feature(Extension::EightBitMime) {
        options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    let addresses = email.to.iter().map(|m| &m.0.email).chain([&from]);
    if addresses.map(ToString::to_string).any(|a| !a.is_ascii()) {
        if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(SendError::permanent(
                "an address is not ASCII, and the server does not offer SMTPUTF8",
            ));
        }
        options.push(MailParameter::SmtpUtfEight);
    }
    smtp.command(Mail::new(Some(from), options)).await.map_err(|e| class("MAIL", e))?;
    let mut refused: Option<SendError> = None;
    let mut left = Vec::new();
    let mut taken = 0;
    for to in email.recipients() {
        match smtp.command(Rcpt::new(to.clone(), Vec::new())).await {
            Ok(_) => taken += 1,
            Err(e) if e.status().is_some() => {
                let error = class(&format!("RCPT {to}"), e);
                tracing::warn!(host = email.host, error = error.message, "mail recipient refused");
                if error.retry {
                    left.push(to.to_string());
                }
                // Of several refusals one that may pass decides.
                if refused.as_ref().is_none_or(|r| !r.retry) {
                    refused = Some(error);
                }
            }
            Err(e) => return Err(class("RCPT", e)),
        }
    }
    if taken == 0 {
        return Err(refused.unwrap_or_else(|| SendError::permanent("no recipient")).left(left));
    }
    smtp.command(Data).await.map_err(|e| class("DATA", e))?;
    smtp.message(body).await.map_err(|e| {
        let answered = e.status().is_some();
        let error = class("DATA", e);
        if answered { error } else { error.in_doubt() }
    })?;
    match refused.filter(|r| r.retry) {
        // Those who took it know.
        Some(error) => Err(error.in_doubt().left(left)),
        None => Ok(()),
    }
}

/// 5yz and what this side did wrong stay; 4yz, network and TLS trouble may pass. An unknown
/// certificate may be mended by its owner, so it is tried again too.
fn class(step: &str, error: Error) -> SendError {
    let mut text = format!("{step}: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match error.is_permanent() || error.is_client() {
        true => SendError::permanent(text),
        false => SendError::transient(text),
    }
}
