//! The JSON Schema of the configuration, for editors and for checking examples.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::read::{CheckTable, RoundTable, ServerTable, SourceTable};
use super::{ConnectorSet, LakeSpec};

/// The JSON Schema (draft 2020-12) of `portolan.toml` with the options of the given connectors.
///
/// A source is one of the protocols' objects: the shared keys and the protocol's own, nothing else.
pub fn json_schema(connectors: &dyn ConnectorSet) -> Value {
    let mut generator = SchemaGenerator::default();
    let server = generator.subschema_for::<ServerTable>().to_value();
    let lake = generator.subschema_for::<LakeSpec>().to_value();
    let round = generator.subschema_for::<RoundTable>().to_value();
    let check = generator.subschema_for::<CheckTable>().to_value();
    let common = schemars::schema_for!(SourceTable).to_value();
    let mut definitions = generator.take_definitions(true);
    merge_definitions(&mut definitions, &common);
    let mut protocols = Vec::new();
    for connector in connectors.all() {
        let options = connector.option_schema().to_value();
        merge_definitions(&mut definitions, &options);
        protocols.push(source_schema(connector, &common, &options));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "portolan.toml",
        "type": "object",
        "additionalProperties": false,
        "required": ["source"],
        "properties": {
            "server": server,
            "lake": lake,
            "source": { "type": "array", "minItems": 1, "items": { "oneOf": protocols } },
            "round": { "type": "array", "items": round },
            "check": { "type": "array", "items": check },
        },
        "$defs": definitions,
    })
}

fn source_schema(connector: &dyn crate::source::Connector, common: &Value, options: &Value) -> Value {
    let mut properties = object_at(common, "properties");
    properties.extend(object_at(options, "properties"));
    let mut protocol = json!({ "const": connector.protocol(), "description": connector.summary() });
    if let Some(port) = connector.default_port() {
        protocol["description"] = json!(format!("{}; default port {port}", connector.summary()));
    }
    properties.insert("protocol".into(), protocol);
    let mut required: Vec<Value> = Vec::new();
    for schema in [common, options] {
        required.extend(schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
    }
    if connector.default_port().is_none() {
        required.push(json!("port"));
    }
    json!({
        "title": format!("{} source", connector.protocol()),
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}

fn object_at(schema: &Value, key: &str) -> Map<String, Value> {
    schema.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn merge_definitions(definitions: &mut Map<String, Value>, schema: &Value) {
    for (name, definition) in object_at(schema, "$defs") {
        definitions.entry(name).or_insert(definition);
    }
}
