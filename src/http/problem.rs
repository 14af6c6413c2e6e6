//! Errors as RFC 9457 problem details. The one place that maps errors to HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::metadata::{Rejection, RejectionKind};
use crate::node::{MemberError, ProposeError, ReadError, SnapshotError};

/// Seconds after which a client may usefully try again: an election has ended by then.
pub(super) const RETRY_AFTER_SECONDS: &str = "1";

/// A refused or failed request. Serialises as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    /// What a program looks at. Stable across releases.
    code: &'static str,
    /// What a person reads.
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status: status.as_u16(), code, detail: detail.into() }
    }

    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(super) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub(super) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    pub(super) fn request_timeout(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
    }

    pub(super) fn body_too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    pub(super) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// The body of the answer.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn starting() -> Self {
        Self::unavailable("starting", "this node has not joined its cluster yet")
    }

    /// A bug of ours. Says no more than that.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this should not have happened")
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection.kind() {
            RejectionKind::NotFound => StatusCode::NOT_FOUND,
            RejectionKind::Conflict => StatusCode::CONFLICT,
            RejectionKind::Invalid => StatusCode::BAD_REQUEST,
        };
        Self::new(status, rejection.code.as_str(), rejection.message)
    }
}

impl From<ProposeError> for Problem {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoLeader => {
                Self::unavailable("no_leader", "no leader could be reached; nothing was changed")
            }
            ProposeError::Overloaded => Self::unavailable(
                "overloaded",
                "too many requests are under way; nothing was changed",
            ),
            ProposeError::Unknown => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "outcome_unknown",
                "the change may have been made or may yet be; retry with the same Idempotency-Key, or look",
            ),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::unavailable(
                "no_leader",
                "no leader could be reached; ?consistency=stale reads what this node has",
            ),
            ReadError::Starting => Self::starting(),
        }
    }
}

impl From<MemberError> for Problem {
    fn from(error: MemberError) -> Self {
        let detail = error.to_string();
        match error {
            MemberError::UnknownMember(_) => Self::not_found("unknown_member", detail),
            MemberError::LastVoter(_) => Self::new(StatusCode::CONFLICT, "last_voter", detail),
            MemberError::NotVoter(_) => Self::new(StatusCode::CONFLICT, "not_a_voter", detail),
            MemberError::NoLeader => {
                Self::unavailable("no_leader", "no leader could be reached; nothing was changed")
            }
            MemberError::NotNow(_) => {
                Self::unavailable("not_now", format!("{detail}; nothing was changed"))
            }
            MemberError::Unknown => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "outcome_unknown",
                "the change may have been made or may yet be; ask again, or look at /cluster",
            ),
            MemberError::Starting => Self::starting(),
        }
    }
}

impl From<SnapshotError> for Problem {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Unknown => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", error.to_string())
            }
            SnapshotError::Starting => Self::starting(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}
