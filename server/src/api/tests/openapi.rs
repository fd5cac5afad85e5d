//! The API's description.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::api::{ROUTES, golden, openapi};

/// Settings with which every route exists.
fn everything() -> ApiSettings {
    ApiSettings {
        bodies: BodyBounds { bytes: 1, read_timeout: Duration::ZERO, room: BodyRoom::of(1_024) },
        documents: 1,
        restricted_clients: BTreeMap::new(),
        writable: true,
        slow_request: None,
        model_control: true,
        model_control_is_open: true,
    }
}

#[test]
fn the_committed_description_is_current() {
    let text = openapi::document(&everything(), true).to_pretty_json().unwrap() + "\n";
    golden::assert_current("docs/openapi.json", &text);
}

#[tokio::test]
async fn the_description_is_served_and_names_every_route_and_method() {
    let api = TestApi::new();
    let answer = api.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    let described: BTreeSet<(String, String)> = answer.json["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase())))
        .collect();
    let routed: BTreeSet<(String, String)> = ROUTES
        .iter()
        .filter(|(route, _)| *route != "/openapi.json")
        .flat_map(|(route, methods)| methods.iter().map(|method| ((*route).to_owned(), (*method).to_owned())))
        .collect();
    assert_eq!(described, routed);
    assert_eq!(answer.json["components"].get("securitySchemes"), None, "no key is asked for");

    let closed = TestApi::build(Behaviour::Answer, false, Some(super::exchange::keys("client: key\n")));
    let request = Request::get("/openapi.json").header("authorization", "Bearer key").body(Body::empty()).unwrap();
    let answer = closed.send(request).await;
    assert_eq!(answer.json["paths"].get("/documents"), None);
    assert_eq!(answer.json["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[test]
fn every_operation_has_an_id_of_its_own_and_says_what_can_go_wrong() {
    let document = serde_json::to_value(openapi::document(&everything(), true)).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("200") && responses.contains_key("401") && responses.contains_key("500"));
            if method == "post" {
                assert!(operation["requestBody"]["content"]["application/json"].get("example").is_some(), "{path}");
            }
        }
    }
}
