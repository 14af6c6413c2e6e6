//! What `/openapi.json` says an endpoint may answer.

use axum::http::{Method, StatusCode};
use serde_json::Value;

/// The API's description.
pub struct Contract {
    document: Value,
}

impl Contract {
    /// As the sources have it.
    pub fn read() -> Self {
        let document = include_str!("../../../src/http/openapi.json");
        Self { document: serde_json::from_str(document).expect("it is JSON") }
    }

    /// Panics if the endpoint must not answer so.
    pub fn check(&self, method: &Method, path: &str, status: StatusCode) {
        let Some(endpoint) = self.endpoint(path) else {
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path} is nowhere described");
            return;
        };
        // A GET without its body.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        // Methods are told apart by case.
        let key = method.as_str().to_lowercase();
        match endpoint.get(&key).filter(|_| method.as_str() == key.to_uppercase()) {
            Some(described) => assert!(
                described["responses"].get(status.as_str()).is_some(),
                "{method} {path} answers {status}, of which its description knows nothing"
            ),
            None => assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}"),
        }
    }

    fn endpoint(&self, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().expect("there are paths");
        paths.iter().find_map(|(template, endpoint)| fits(template, path).then_some(endpoint))
    }
}

/// Whether `path` is one that `template` stands for, whose `{parameters}` are whole segments.
fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(name), Some(value)) if name.starts_with('{') && !value.is_empty() => {}
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return false,
        }
    }
}
