//! Request bodies: JSON objects, flat or in a record's envelope.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json::Strict;
use super::problem::Problem;
use super::{BODY_BYTES_MAX, write};
use crate::env::{Env, rt};
use crate::metadata::Fields;
use crate::node::{Node, REQUEST_DEADLINE};

/// The fields of a request that is about an `R`, as they were sent.
pub(super) struct Body<R> {
    fields: Value,
    /// The client's name for this change, if it gave one.
    pub(super) idempotency: Option<crate::metadata::IdempotencyKey>,
    record: std::marker::PhantomData<fn() -> R>,
}

impl<R> Body<R> {
    /// The fields as a `T`. Fields that `T` does not know are ignored: a record that was read may be sent
    /// back whole, server-set fields included.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<T, Problem> {
        parse(self.fields)
    }
}

impl<E: Env, R: Fields> FromRequest<Node<E>> for Body<R> {
    type Rejection = Problem;

    async fn from_request(request: Request, _node: &Node<E>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let value = read_json::<E>(&parts.headers, body).await?;
        let idempotency = write::idempotency_key(&parts.headers, parts.uri.path(), &value)?;
        let fields = unwrap_envelope::<R>(value)?;
        Ok(Self { fields, idempotency, record: std::marker::PhantomData })
    }
}

/// A request that is about no record: a JSON object that says what a `T` needs.
pub(super) struct Plain<T>(pub(super) T);

impl<E: Env, T: DeserializeOwned> FromRequest<Node<E>> for Plain<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _node: &Node<E>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let value = read_json::<E>(&parts.headers, body).await?;
        if !value.is_object() {
            return Err(not_an_object());
        }
        parse(value).map(Self)
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    T::deserialize(value).map_err(|error| Problem::bad_request("invalid_field", error.to_string()))
}

fn not_an_object() -> Problem {
    Problem::bad_request("invalid_body", "the body must be a JSON object")
}

async fn read_json<E: Env>(
    headers: &header::HeaderMap,
    body: axum::body::Body,
) -> Result<Value, Problem> {
    check_content_type(headers)?;
    check_content_encoding(headers)?;
    let bytes = rt::timeout::<E, _>(REQUEST_DEADLINE, collect(headers, body)).await;
    let bytes =
        bytes.ok_or_else(|| Problem::request_timeout("the body did not arrive in time"))??;
    let parsed = serde_json::from_slice::<Strict>(&bytes);
    parsed.map(|strict| strict.0).map_err(|error| {
        // Every JSON text fits `Strict`, unless it repeats a key.
        let code = if error.is_data() { "duplicate_key" } else { "malformed_json" };
        Problem::bad_request(code, error.to_string())
    })
}

fn check_content_type(headers: &header::HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(Problem::unsupported_media_type("send Content-Type: application/json"));
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::unsupported_media_type(format!("expected application/json, not {essence:?}")))
}

/// Refuses a body that is compressed: a small one could expand to far more than [`BODY_BYTES_MAX`],
/// and no legal request needs it.
fn check_content_encoding(headers: &header::HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let codings = value.to_str().map_err(|_| encoding_refused(&format!("{value:?}")))?;
        let mut codings = codings.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(encoding_refused(&format!("{coding:?}")));
        }
    }
    Ok(())
}

fn encoding_refused(coding: &str) -> Problem {
    Problem::unsupported_media_type(format!(
        "Content-Encoding {coding} is not supported: send the body as it is, or encoded as \"identity\""
    ))
}

async fn collect(headers: &header::HeaderMap, body: axum::body::Body) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::body_too_large(format!("a body may have at most {BODY_BYTES_MAX} bytes"));
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    // Refuse what is too large before it is sent, where the client says so.
    if announced.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Problem::bad_request("incomplete_body", error.to_string())),
    }
}

/// The fields in `value`, which are all of it, or those in a record's envelope.
fn unwrap_envelope<R: Fields>(value: Value) -> Result<Value, Problem> {
    let Value::Object(mut object) = value else {
        return Err(not_an_object());
    };
    if !object.get("fields").is_some_and(Value::is_object) {
        return Ok(Value::Object(object));
    }
    if let Some(name) = object.get("name")
        && name != R::NAME
    {
        return Err(Problem::bad_request(
            "wrong_record",
            format!("expected a {}, not a {name}", R::NAME),
        ));
    }
    Ok(object.remove("fields").unwrap_or_default())
}
