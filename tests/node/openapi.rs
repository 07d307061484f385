//! The OpenAPI document of the HTTP front end says what a node answers.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

use crate::node::{Node, Response};

/// The schemas of a document.
struct Document(Value);

impl Document {
    fn of(node: &Node) -> Self {
        let answer = node.get("/openapi.json");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        Self(answer.json())
    }

    fn validate(&self, schema: &str, value: &Value) -> Result<(), String> {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("openapi.json", self.0.clone()).unwrap();
        let index: SchemaIndex =
            compiler.compile(&format!("openapi.json#/components/schemas/{schema}"), &mut schemas).unwrap();
        schemas.validate(value, index).map_err(|error| format!("{error:#}: {value}"))
    }

    fn assert_describes(&self, schema: &str, answer: &Response) {
        self.validate(schema, &answer.json()).unwrap();
    }
}

#[test]
fn the_document_describes_every_answer() {
    let node = Node::dev(&[]);
    let document = Document::of(&node);
    let check = r#"{"domain":"demo","attributes":{"user":"u1"}}"#;
    for _ in 0..5 {
        document.assert_describes("Decision", &node.check(check));
    }
    let denied = node.check(check);
    assert_eq!(denied.status, 429);
    document.assert_describes("Decision", &denied);
    document.assert_describes(
        "Decision",
        &node.send("GET /v1/authorize?domain=web&deny_status=403 HTTP/1.1\r\nx-api-key: a\r\nx-api-key: b", ""),
    );
    document.assert_describes("Problem", &node.check(r#"{"hits":-1}"#));
    document.assert_describes("Problem", &node.get("/nothing"));
    document.assert_describes("Readiness", &node.get("/ready"));
    let batch = node.send("POST /v1/checks HTTP/1.1", &format!(r#"{{"checks":[{check},{{}}]}}"#));
    assert_eq!(batch.status, 200);
    document.assert_describes("BatchAnswer", &batch);
}

#[test]
fn the_document_takes_the_checks_that_a_node_takes_and_no_others() {
    let node = Node::dev(&[]);
    let document = Document::of(&node);
    for check in [
        json!({ "domain": "d" }),
        json!({ "domain": "d", "attributes": { "user": "u" }, "hits": 0, "overdraft": true }),
        json!({ "domain": "d", "descriptors": [{ "a": "b" }, {}] }),
        json!({}),
        json!({ "domain": "" }),
        json!({ "domain": "d", "hits": -1 }),
        json!({ "domain": "d", "hits": 1.5 }),
        json!({ "domain": "d", "hits": 4_294_967_296_u64 }),
        json!({ "domain": "d", "overdraft": "yes" }),
        json!({ "domain": "d", "attributes": { "user": 5 } }),
        json!({ "domain": "d", "descriptors": [] }),
        json!({ "domain": "d", "attributes": {}, "descriptors": [{}] }),
        json!({ "domain": "d", "more": 1 }),
    ] {
        let is_taken = node.check(&check.to_string()).status != 400;
        assert_eq!(document.validate("Check", &check).is_ok(), is_taken, "{check}");
    }
}

#[test]
fn every_route_is_in_the_document() {
    let Document(document) = Document::of(&Node::dev(&[]));
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let source = include_str!("../../src/api/http/mod.rs");
    let routes: Vec<&str> = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(routes.len() > 8, "{routes:?}");
    assert!(routes.iter().all(|route| paths.iter().any(|path| path == route)), "{routes:?} {paths:?}");
    assert_eq!(routes.len(), paths.len());
}
