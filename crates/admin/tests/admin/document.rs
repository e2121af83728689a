//! The OpenAPI document, and whether answers are as it says.

use std::collections::BTreeSet;

use semel_testkit::http1::Message;
use serde_json::{Map, Value};

use crate::gateway::Gateway;

const METHODS: [&str; 2] = ["get", "post"];

pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../src/openapi.json")).unwrap())
    }

    fn paths(&self) -> &Map<String, Value> {
        self.0["paths"].as_object().unwrap()
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(pointer) => self.resolve(self.target(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))),
            None => value,
        }
    }

    fn target(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer.strip_prefix('#')?)
    }

    fn template_of(&self, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or_default();
        let fits = |template: &str| {
            let (parts, others) = (path.split('/'), template.split('/'));
            parts.clone().count() == others.clone().count()
                && parts.zip(others).all(|(part, other)| part == other || other.starts_with('{'))
        };
        self.paths().iter().find(|(template, _)| fits(template)).map(|(_, item)| item)
    }

    /// The answer is one that the document has for this operation, with a body as its schema says.
    pub(crate) fn check(&self, method: &str, path: &str, answer: &Message) {
        let status = answer.status();
        let sent = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let operation = self.template_of(path).and_then(|item| item.get(method.to_lowercase()));
        let Some(operation) = operation else {
            // No operation, no answer but a refusal; or the answer to a preflight.
            if status != 204 {
                assert_eq!(sent, "application/problem+json", "{method} {path}: {answer:?}");
                self.check_json("/components/schemas/Problem", answer);
            }
            return;
        };
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "{method} {path} answers {status}, which the document lacks: {answer:?}");
        let contents = self.resolve(response)["content"].as_object().unwrap();
        let content = contents.get(sent).unwrap_or_else(|| panic!("{method} {path} {status}: unlisted type {sent:?}"));
        if sent.ends_with("json") {
            self.check_value(&content["schema"], &serde_json::from_slice(&answer.body).unwrap(), path);
        }
    }

    fn check_json(&self, schema: &str, answer: &Message) {
        let value = serde_json::from_slice(&answer.body).unwrap();
        self.check_value(self.0.pointer(schema).unwrap(), &value, &answer.start);
    }

    /// As much of JSON Schema 2020-12 as the document uses, beside formats and patterns.
    fn check_value(&self, schema: &Value, value: &Value, at: &str) {
        let schema = self.resolve(schema);
        let types: Vec<&str> = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        assert!(types.iter().any(|kind| is(value, kind)), "{at}: {value} is not {types:?}");
        if let Some(known) = schema["enum"].as_array() {
            assert!(known.contains(value), "{at}: {value} is not one of {known:?}");
        }
        if let Some(only) = schema.get("const") {
            assert_eq!(value, only, "{at}");
        }
        for (item, n) in value.as_array().into_iter().flatten().zip(0..) {
            self.check_value(&schema["items"], item, &format!("{at}/{n}"));
        }
        let Some(object) = value.as_object() else { return };
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(object.contains_key(required), "{at}: {required} is missing in {value}");
        }
        for (name, value) in object {
            match schema["properties"].get(name) {
                Some(schema) => self.check_value(schema, value, &format!("{at}/{name}")),
                None => assert_ne!(schema["additionalProperties"], false, "{at}: {name} is not in the document"),
            }
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the document has the type {other}, which this test does not know"),
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(pointer)) = object.get("$ref") {
                found.insert(pointer.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_part_is_used() {
    let document = Document::read();
    let mut used = BTreeSet::new();
    references(&document.0, &mut used);
    for pointer in &used {
        assert!(document.target(pointer).is_some(), "{pointer} leads nowhere");
    }
    for kind in ["parameters", "responses", "schemas"] {
        for name in document.0["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

#[test]
fn every_operation_says_who_may_use_it_and_changes_need_a_token() {
    let document = Document::read();
    let mut names = BTreeSet::new();
    for (path, item) in document.paths() {
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{path}: operationId twice");
            let security = operation["security"].as_array().unwrap();
            let free = security.is_empty() || security.iter().any(|one| one.as_object().unwrap().is_empty());
            assert_eq!(free, method == "get", "{method} {path}");
            assert_eq!(operation["requestBody"]["required"] == true, method == "post", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_server_has_the_documents_methods_and_no_others() {
    let gateway = Gateway::start().await;
    for (path, item) in Document::read().paths() {
        let answer = gateway.send("PATCH", &path.replace("{id}", "ef_0"), &[("Host", "localhost")], b"").await;
        assert_eq!(answer.refusal(), (405, "method-not-allowed"), "{path}");
        let allowed: BTreeSet<String> =
            answer.message.header("allow").unwrap().split(',').map(str::to_lowercase).collect();
        let listed = METHODS.into_iter().filter(|method| item.get(method).is_some());
        // RFC 9110 section 9.3.2: HEAD wherever there is GET.
        let heads = item.get("get").map(|_| "head");
        assert_eq!(allowed, listed.chain(heads).map(str::to_owned).collect(), "{path}");
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.get("/openapi.json").await.json, Document::read().0);
    assert_eq!(gateway.get("/nothing").await.refusal(), (404, "not-found"));
}
