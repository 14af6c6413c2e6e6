//! The `Host` header, as HTTP requires it (RFC 9112 §3.2).
//!
//! A request of HTTP/1.1 has exactly one, and no request has two. Otherwise a proxy and a node
//! could each take a different one for the true host, and would not agree on the request.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Answers 400 to a request without a legal `Host`, and passes on every other.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match objection(request.version(), request.headers()) {
        Some(detail) => Problem::bad_request("invalid_host", detail).into_response(),
        None => next.run(request).await,
    }
}

/// The reason to refuse a request with these headers, if there is one.
fn objection(version: Version, headers: &HeaderMap) -> Option<String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        let missing = "the request has no Host header; HTTP/1.1 requires exactly one";
        return (version == Version::HTTP_11).then(|| missing.to_owned());
    };
    if hosts.next().is_some() {
        let count = 2 + hosts.count();
        return Some(format!("the request has {count} Host headers; send exactly one"));
    }
    let legal = host.to_str().is_ok_and(|host| {
        // A client that has no authority sends an empty value (RFC 9110 §7.2).
        host.is_empty() || (!host.contains('@') && host.parse::<Authority>().is_ok())
    });
    (!legal).then(|| format!("the Host header is {host:?}; expected HOST or HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(version: Version, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        objection(version, &headers).is_some()
    }

    #[test]
    fn http_1_1_takes_exactly_one_host_and_http_1_0_at_most_one() {
        for host in ["localhost", "localhost:5011", "10.0.0.1:80", "[::1]:5011", ""] {
            assert!(!refused(Version::HTTP_11, &[host]), "{host:?}");
        }
        assert!(refused(Version::HTTP_11, &[]));
        assert!(!refused(Version::HTTP_10, &[]));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(refused(version, &["a", "a"]));
            assert!(refused(version, &["a", "b", "c"]));
        }
    }

    #[test]
    fn a_host_that_is_no_authority_is_refused() {
        for host in ["a b", "user@host", "a/b", "[::1"] {
            assert!(refused(Version::HTTP_11, &[host]), "{host:?}");
        }
    }
}
