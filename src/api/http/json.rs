//! A JSON document that keeps repeated keys, so that they can be named as errors.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// The members in their order. A key may be there several times.
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    String(String),
    Number(Number),
    Bool(bool),
    Null,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(Json::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_repeated_keys() {
        let text = r#"{"a":[1,-2,0.5,"x\u0041",true,null,{}],"\u0061":{"b":"c","b":"d"}}"#;
        let string = |text: &str| Json::String(text.to_owned());
        let number = |text: &str| Json::Number(text.parse().unwrap());
        let object =
            |members: Vec<(&str, Json)>| Json::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        let items =
            vec![number("1"), number("-2"), number("0.5"), string("xA"), Json::Bool(true), Json::Null, object(vec![])];
        let inner = object(vec![("b", string("c")), ("b", string("d"))]);
        let parsed: Json = serde_json::from_str(text).unwrap();
        assert_eq!(parsed, object(vec![("a", Json::Array(items)), ("a", inner)]));
    }

    #[test]
    fn a_document_is_not_nested_without_end() {
        assert!(serde_json::from_str::<Json>(&"[".repeat(10_000)).is_err());
        assert!(serde_json::from_str::<Json>("{\"a\":1} x").is_err());
        assert!(serde_json::from_str::<Json>("[1e999]").is_err());
    }
}
