//! `/openapi.json`: the API as an `OpenAPI` 3.1 document, written by hand and held to the router by tests.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use axum::body::Body;
    use axum::http::{Request, StatusCode, header};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::env::TokioEnv;
    use crate::http::tests::idle_node;
    use crate::http::{router, routes};
    use crate::metadata::{
        Fields, PartitionRecord, ProducerIdsRecord, RegisterBrokerRecord,
        RegistrationChangeBrokerRecord, RejectionCode, Timestamp, TopicRecord,
    };
    use crate::node::{MemberStatus, Role};
    use crate::raft::network::health::Unreachable;

    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// The documented methods of each documented path.
    fn documented() -> BTreeMap<String, BTreeSet<String>> {
        let document = parsed();
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .map(|(path, item)| {
                let keys = item.as_object().unwrap().keys();
                (path.clone(), keys.map(|method| method.to_uppercase()).collect())
            })
            .collect()
    }

    async fn ask(method: &str, path: &str) -> (StatusCode, Option<String>, Value) {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "node");
        let request = request.body(Body::empty()).unwrap();
        let answer = router(idle_node()).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let allow =
            parts.headers.get(header::ALLOW).map(|allow| allow.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, allow, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn exactly_the_routers_paths_and_methods_are_documented() {
        let served: BTreeSet<_> = routes::<TokioEnv>().map(|(path, _)| path.to_owned()).into();
        assert_eq!(documented().into_keys().collect::<BTreeSet<_>>(), served);
        for (path, methods) in documented() {
            let path = path.replace(['{', '}'], "");
            // Nothing takes PATCH; the refusal says what is taken. HEAD comes with every GET.
            let (status, allow, problem) = ask("PATCH", &path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(problem["code"], "method_not_allowed");
            let allow = allow.unwrap();
            let allowed = allow.split(',').filter(|method| *method != "HEAD");
            assert_eq!(allowed.map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{path}");
        }
        let (status, _, problem) = ask("GET", "/no_such_path").await;
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"unknown_endpoint".into()));
    }

    #[test]
    fn every_rejection_has_its_code_documented() {
        let document = parsed();
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let codes: BTreeSet<_> =
            codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
        for code in RejectionCode::ALL {
            assert!(codes.contains(code.as_str()), "{code} is not documented");
        }
    }

    #[test]
    fn a_records_documented_fields_are_the_ones_it_has() {
        fn check<R: Fields>(document: &Value, json: &str) {
            let fields = serde_json::from_str::<R>(json).unwrap();
            let fields = serde_json::to_value(fields).unwrap();
            let schema = &document["components"]["schemas"][format!("{}Fields", R::NAME)];
            let documented = schema["properties"].as_object().unwrap();
            let names = |object: &serde_json::Map<String, Value>| {
                object.keys().cloned().collect::<BTreeSet<_>>()
            };
            assert_eq!(names(documented), names(fields.as_object().unwrap()), "{}", R::NAME);
            let envelope = &document["components"]["schemas"][R::NAME];
            assert_eq!(envelope["properties"]["name"]["const"], R::NAME);
        }
        const ID: &str = "00000000-0000-4000-8000-000000000000";
        let broker = r#""brokerHost":"h","brokerPort":"1","securityProtocol":"PLAINTEXT",
            "brokerStatus":"ALIVE","epoch":0"#;
        let document = parsed();
        check::<RegisterBrokerRecord>(
            &document,
            &format!(r#"{{"internalUUID":"{ID}","brokerId":1,"rackId":"",{broker}}}"#),
        );
        check::<RegistrationChangeBrokerRecord>(
            &document,
            &format!(r#"{{"brokerId":"{ID}",{broker}}}"#),
        );
        check::<TopicRecord>(&document, &format!(r#"{{"topicUUID":"{ID}","name":"t"}}"#));
        check::<PartitionRecord>(
            &document,
            &format!(
                r#"{{"partitionId":0,"topicUUID":"{ID}","replicas":[],"ISR":[],"removingReplicas":[],
                "addingReplicas":[],"leader":"","partitionEpoch":0}}"#
            ),
        );
        check::<ProducerIdsRecord>(
            &document,
            &format!(r#"{{"brokerId":"{ID}","brokerEpoch":0,"producerId":0}}"#),
        );
    }

    #[test]
    fn a_members_documented_fields_are_the_ones_it_has() {
        let unreachable = Unreachable {
            since: Timestamp::ZERO,
            seconds: 0,
            failures: 1,
            reason: "refused".to_owned(),
        };
        let member = MemberStatus {
            id: 1,
            raft: "h:1".to_owned(),
            http: "h:2".to_owned(),
            role: Role::Follower,
            voter: true,
            matched: None,
            unreachable: Some(unreachable.clone()),
        };
        let names =
            |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let document = parsed();
        let schemas = &document["components"]["schemas"];
        for (schema, value) in [
            ("Member", serde_json::to_value(&member).unwrap()),
            ("Unreachable", serde_json::to_value(&unreachable).unwrap()),
        ] {
            assert_eq!(names(&schemas[schema]["properties"]), names(&value), "{schema}");
        }
        let reachable = MemberStatus { unreachable: None, ..member };
        assert!(serde_json::to_value(reachable).unwrap().get("unreachable").is_none());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference} is nothing");
                    }
                    object.values().for_each(|value| walk(value, document));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        let document = parsed();
        walk(&document, &document);
    }
}
